#include "collective/energy_kick.h"

#include "collective/chunks.h"

namespace betatron::collective {

void add_kick(beam::bunch& b, std::size_t column, const line_grid& grid, shape s,
              std::span<const double> kick, std::span<const double> gradient, unsigned threads) {
  b.visit([&](const auto& c) {
    using F = typename std::remove_cvref_t<decltype(c)>::value_type;
    const F* t = c.z[4];
    const F* q = c.z[column - 1];
    F* p = c.z[column];
    with_shape(s, [&](auto order) {
      for_chunks(c.size, threads, [&](std::size_t, std::size_t first, std::size_t last) {
        for (std::size_t i = first; i < last; ++i) {
          const line_weights at = weights_at<order()>(grid, static_cast<double>(t[i]));
          double dp = interpolate<order()>(at, kick.data());
          if (!gradient.empty()) {
            dp += static_cast<double>(q[i]) * interpolate<order()>(at, gradient.data());
          }
          p[i] = static_cast<F>(static_cast<double>(p[i]) + dp);
        }
      });
    });
  });
}

void add_energy(beam::bunch& b, const line_grid& grid, shape s, std::span<const double> gain,
                unsigned threads) {
  const double scale = -1 / b.ref.momentum();
  std::vector<double> dpt(gain.begin(), gain.end());
  for (double& d : dpt) d *= scale;
  add_kick(b, 5, grid, s, dpt, {}, threads);
}

}  // namespace betatron::collective
