#include "lattice/taylor.h"

#include <stdexcept>
#include <string>
#include <variant>

#include "lattice/program.h"
#include "lattice/push_inside.h"
#include "numerics/taylor.h"

namespace betatron::lattice {

namespace {

/// Pushes series through the maps that visit(receiver) passes on.
template <int Order, class Visit>
taylor_series expand_to(const std::array<double, 6>& start, const Visit& visit) {
  using series = numerics::taylor<Order>;
  elements::phase_space<series> z;
  series* columns[] = {&z.x, &z.px, &z.y, &z.py, &z.t, &z.pt};
  for (std::size_t i = 0; i < 6; ++i) {
    *columns[i] = series::variable(start[i], static_cast<int>(i));
  }
  visit([&](const any_map& map, const std::array<double, 2>& energy) {
    std::visit(
        [&]<class Map>(const Map& m) {
          if constexpr (Map::writes != 0) {
            push_inside(m, z, elements::energy_of(z.pt, energy[0], energy[1]));
          }
        },
        map);
  });
  taylor_series r{Order, {}};
  r.coefficients.reserve(6 * series::count);
  for (const series* column : columns) {
    r.coefficients.insert(r.coefficients.end(), column->c.begin(), column->c.end());
  }
  return r;
}

template <class Visit>
taylor_series expand_to(int order, const std::array<double, 6>& start, const Visit& visit) {
  static_assert(max_taylor_order == 4);
  switch (order) {
    case 1:
      return expand_to<1>(start, visit);
    case 2:
      return expand_to<2>(start, visit);
    case 3:
      return expand_to<3>(start, visit);
    case 4:
      return expand_to<4>(start, visit);
    default:
      throw std::invalid_argument("order = " + std::to_string(order) +
                                  " of a Taylor map is not allowed; allowed: 1 to " +
                                  std::to_string(max_taylor_order));
  }
}

}  // namespace

taylor_series expand(const line& l, std::size_t first, std::size_t last, beam::reference& ref,
                     int order, const std::array<double, 6>& start) {
  return expand_to(order, start,
                   [&](const map_visitor& receive) { visit_maps(l, first, last, ref, receive); });
}

taylor_series expand(const element& e, int index, int count, beam::reference& ref, int order,
                     const std::array<double, 6>& start) {
  return expand_to(order, start,
                   [&](const map_visitor& receive) { visit_maps(e, index, count, ref, receive); });
}

}  // namespace betatron::lattice
