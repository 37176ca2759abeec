#include "collective/space_charge_envelope.h"

#include <cmath>
#include <stdexcept>
#include <string>

#include "beam/text.h"
#include "collective/carlson.h"
#include "collective/principal_axes.h"
#include "collective/strength.h"

namespace betatron::collective {

namespace {

std::string name_of(envelope_model m) {
  return m == envelope_model::beam_3d ? "SpaceChargeEnvelope 3D" : "SpaceChargeEnvelope 2D";
}

/// The gradient of the field, de_i/dx_j, from the covariance of positions.
template <std::size_t N, class Slope>
std::array<std::array<double, N>, N> gradient(const envelope_space_charge& model,
                                              const std::array<std::array<double, N>, N>& cov,
                                              const Slope& slope) {
  for (const auto& row : cov) {
    for (const double v : row) {
      if (!std::isfinite(v)) {
        throw std::invalid_argument(name_of(model.model) + ": the covariance is not finite");
      }
    }
  }
  const principal_axes<N> own = find_principal_axes<N>(cov);
  if (!(own.variance[0] > 0)) {
    throw std::invalid_argument(name_of(model.model) +
                                ": the beam has no extent in one direction of space; its field "
                                "would be infinite");
  }
  std::array<std::array<double, N>, N> result{};
  for (std::size_t k = 0; k < N; ++k) {
    const double own_slope = slope(own.variance, k);
    for (std::size_t i = 0; i < N; ++i) {
      for (std::size_t j = 0; j < N; ++j) {
        result[i][j] += own_slope * own.axes[k][i] * own.axes[k][j];
      }
    }
  }
  return result;
}

}  // namespace

void check(const envelope_space_charge& model) {
  if (model.model == envelope_model::beam_2d) {
    if (!model.current) {
      throw std::invalid_argument(name_of(model.model) + " needs the current of the beam [A]");
    }
    if (!std::isfinite(*model.current)) {
      throw std::invalid_argument(name_of(model.model) +
                                  ": current = " + beam::number_text(*model.current) +
                                  " A is not allowed; allowed: finite");
    }
  } else if (model.current) {
    throw std::invalid_argument(name_of(model.model) +
                                ": a bunch has a charge, not a current; current belongs to 2D");
  }
}

beam::matrix6 kick_matrix(const envelope_space_charge& model, const beam::matrix6& covariance,
                          double charge, const beam::reference& ref, double length) {
  beam::matrix6 m{};
  for (std::size_t i = 0; i < 6; ++i) m[7 * i] = 1;
  const double bg = ref.beta_gamma(), radius = classical_radius(ref.particle);
  const auto cov = [&](std::size_t i, std::size_t j) { return covariance[12 * i + 2 * j]; };
  if (model.model == envelope_model::beam_2d) {
    const double density = density_of_current(*model.current, ref.particle);
    if (density == 0 || length == 0) return m;
    const auto e = gradient<2>(model, {{{cov(0, 0), cov(0, 1)}, {cov(1, 0), cov(1, 1)}}},
                               [](const std::array<double, 2>& v, std::size_t k) {
                                 const double s = std::sqrt(v[k]);
                                 return 1 / (2 * s * (std::sqrt(v[0]) + std::sqrt(v[1])));
                               });
    const double strength = 2 * density * radius * length / (bg * bg * bg);
    for (std::size_t i = 0; i < 2; ++i) {
      for (std::size_t j = 0; j < 2; ++j) m[6 * (2 * i + 1) + 2 * j] += strength * e[i][j];
    }
    return m;
  }
  const double particles = particle_count(charge, ref.particle);
  if (particles == 0 || length == 0) return m;
  const std::array<double, 3> unit = {1, 1, -bg};  // of x, y, t in the rest frame
  std::array<std::array<double, 3>, 3> rest;
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t j = 0; j < 3; ++j) rest[i][j] = unit[i] * unit[j] * cov(i, j);
  }
  const auto e = gradient<3>(model, rest, [](const std::array<double, 3>& v, std::size_t k) {
    return carlson_rd(v[(k + 1) % 3], v[(k + 2) % 3], v[k]) / (5 * std::sqrt(5.0));
  });
  const double strength = particles * radius * length;
  const std::array<double, 3> factor = {strength / (bg * bg), strength / (bg * bg), -strength / bg};
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t j = 0; j < 3; ++j) {
      m[6 * (2 * i + 1) + 2 * j] += factor[i] * e[i][j] * unit[j];
    }
  }
  return m;
}

tracking::effect effect_of(const envelope_space_charge& model, int order, double spacing) {
  check(model);
  tracking::effect e;
  e.name = name_of(model.model);
  e.envelope_kick = [model](const std::array<double, 6>&, const beam::matrix6& covariance,
                            double charge, const tracking::kick_place& place) {
    return kick_matrix(model, covariance, charge, place.ref, place.length);
  };
  e.order = order;
  e.spacing = spacing;
  e.reversible = true;
  return e;
}

}  // namespace betatron::collective
