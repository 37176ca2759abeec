#include "beam/summary.h"

#include <limits>

#include "numerics/constants.h"

namespace betatron::beam {

std::array<double, summary_names.size()> summarise(const moments& m, const reference& ref) {
  std::array<double, summary_names.size()> row{};
  std::size_t i = 0;
  auto put = [&](double v) { row[i++] = v; };
  put(ref.s);
  put(ref.gamma());
  put(static_cast<double>(m.count));
  put(m.weight * ref.particle.charge * numerics::constants::elementary_charge);
  for (double v : m.mean) put(v);
  for (int c = 0; c < 6; ++c) put(m.sigma(c));
  for (double v : m.min) put(v);
  for (double v : m.max) put(v);
  const std::array<double, 3> e = {emittance(m, plane_x), emittance(m, plane_y),
                                   emittance(m, plane_t)};
  for (double v : e) put(v);
  for (double v : e) put(v * ref.beta_gamma());
  const std::array<twiss_parameters, 3> t = {twiss(m, plane_x), twiss(m, plane_y),
                                             twiss(m, plane_t)};
  for (const auto& p : t) put(p.alpha);
  for (const auto& p : t) put(p.beta);
  for (double v : dispersion(m)) put(v);
  for (double v : eigenemittances(m.cov)) put(v);
  return row;
}

std::array<double, spin_summary_names.size()> summarise_spin(const moments& m) {
  if (!m.spin) {
    constexpr double nan = std::numeric_limits<double>::quiet_NaN();
    return {nan, nan, nan, nan, nan, nan, nan};
  }
  const auto& [mean, sigma] = *m.spin;
  return {mean[0], mean[1], mean[2], sigma[0], sigma[1], sigma[2], m.spin->polarization()};
}

}  // namespace betatron::beam
