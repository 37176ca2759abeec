#include "collective/space_charge_envelope.h"

#include <algorithm>
#include <cmath>
#include <limits>
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

template <std::size_t N>
using square = std::array<std::array<double, N>, N>;

[[noreturn]] void refuse_flat(const envelope_space_charge& model) {
  throw std::invalid_argument(name_of(model.model) +
                              ": the beam has no extent in one direction of space; its field "
                              "would be infinite");
}

/// The covariance of the first N positions, each times a number.
template <std::size_t N>
square<N> positions(const envelope_space_charge& model, const beam::matrix6& covariance,
                    const std::array<double, N>& unit) {
  square<N> r;
  for (std::size_t i = 0; i < N; ++i) {
    for (std::size_t j = 0; j < N; ++j) {
      r[i][j] = unit[i] * unit[j] * covariance[12 * i + 2 * j];
      if (!std::isfinite(r[i][j])) {
        throw std::invalid_argument(name_of(model.model) + ": the covariance is not finite");
      }
    }
  }
  return r;
}

/// The gradient of the field, de_i/dx_j, of the 2D beam: xx, xy, yy. T may carry derivatives.
template <class T>
std::array<T, 3> gradient_2d(const envelope_space_charge& model, const T& xx, const T& xy,
                             const T& yy) {
  using std::sqrt;
  const T square_of_root = xx * yy - xy * xy, trace = xx + yy;
  if (!(double_of(square_of_root) > 0 && double_of(trace) > 0)) refuse_flat(model);
  const T root = sqrt(square_of_root);
  const T factor = 0.5 / (root * (trace + root * 2.0));
  return {(yy + root) * factor, -xy * factor, (xx + root) * factor};
}

/// The principal axes of the bunch in its rest frame, and R_D/(5 sqrt 5) along them.
struct ellipsoid {
  principal_axes<3> own;
  std::array<double, 3> slope;

  ellipsoid(const envelope_space_charge& model, const square<3>& rest)
      : own(find_principal_axes<3>(rest)) {
    if (!(own.variance[0] > 0)) refuse_flat(model);
    for (std::size_t k = 0; k < 3; ++k) {
      slope[k] = carlson_rd(own.variance[(k + 1) % 3], own.variance[(k + 2) % 3], own.variance[k]) /
                 (5 * std::sqrt(5.0));
    }
  }

  /// The gradient of the field.
  square<3> gradient() const {
    square<3> r{};
    for (std::size_t k = 0; k < 3; ++k) {
      for (std::size_t i = 0; i < 3; ++i) {
        for (std::size_t j = 0; j < 3; ++j) {
          r[i][j] += slope[k] * own.axes[k][i] * own.axes[k][j];
        }
      }
    }
    return r;
  }

  /// Derivatives by the covariance, given those by the gradient of the field.
  square<3> pull(const square<3>& by_gradient) const {
    using number = numerics::dual<double, 3>;
    std::array<number, 3> v, s;
    for (std::size_t k = 0; k < 3; ++k) {
      v[k] = number::variable(own.variance[k], static_cast<int>(k));
    }
    for (std::size_t k = 0; k < 3; ++k) {
      s[k] = carlson_rd(v[(k + 1) % 3], v[(k + 2) % 3], v[k]) / (5 * std::sqrt(5.0));
    }
    const square<3>& a = own.axes;
    square<3> here{}, turned{}, r{};
    for (std::size_t k = 0; k < 3; ++k) {  // into the principal axes
      for (std::size_t l = 0; l < 3; ++l) {
        for (std::size_t i = 0; i < 3; ++i) {
          for (std::size_t j = 0; j < 3; ++j) here[k][l] += a[k][i] * by_gradient[i][j] * a[l][j];
        }
      }
    }
    for (std::size_t k = 0; k < 3; ++k) {
      for (std::size_t l = 0; l < 3; ++l) {
        if (k == l) {
          for (std::size_t m = 0; m < 3; ++m) turned[k][k] += here[m][m] * s[m].d[k];
        } else {
          turned[k][l] = here[k][l] * 2 * s[k].d[l];
        }
      }
    }
    for (std::size_t i = 0; i < 3; ++i) {
      for (std::size_t j = 0; j < 3; ++j) {
        for (std::size_t k = 0; k < 3; ++k) {
          for (std::size_t l = 0; l < 3; ++l) r[i][j] += a[k][i] * turned[k][l] * a[l][j];
        }
      }
    }
    return r;
  }
};

constexpr std::size_t entry(std::size_t i, std::size_t j) { return 6 * (2 * i + 1) + 2 * j; }

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
  if (model.model == envelope_model::beam_2d) {
    const double density = density_of_current(*model.current, ref.particle);
    if (density == 0 || length == 0) return m;
    const auto cov = positions<2>(model, covariance, {1, 1});
    const auto e = gradient_2d(model, cov[0][0], cov[0][1], cov[1][1]);
    const double strength = 2 * density * radius * length / (bg * bg * bg);
    for (std::size_t i = 0; i < 2; ++i) {
      for (std::size_t j = 0; j < 2; ++j) m[entry(i, j)] += strength * e[i + j];
    }
    return m;
  }
  const double particles = particle_count(charge, ref.particle);
  if (particles == 0 || length == 0) return m;
  const std::array<double, 3> unit = {1, 1, -bg};  // of x, y, t in the rest frame
  const auto e = ellipsoid(model, positions<3>(model, covariance, unit)).gradient();
  const double strength = particles * radius * length / (bg * bg);
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t j = 0; j < 3; ++j) {
      m[entry(i, j)] += strength * unit[i] * e[i][j] * unit[j];
    }
  }
  return m;
}

namespace {

/// pull_kick() of a beam with extent in all directions.
tracking::envelope_kick_pull pull_field(const envelope_space_charge& model,
                                        const beam::matrix6& covariance, double charge,
                                        const beam::reference& ref, double length,
                                        const beam::matrix6& by_matrix) {
  tracking::envelope_kick_pull r;
  const double bg = ref.beta_gamma(), radius = classical_radius(ref.particle);
  const double by_kinetic = ref.gamma() / bg;  // d(beta gamma)/dgamma
  if (model.model == envelope_model::beam_2d) {
    using number = numerics::dual<double, 3>;
    const auto cov = positions<2>(model, covariance, {1, 1});
    const auto e = gradient_2d(model, number::variable(cov[0][0], 0),
                               number::variable(cov[0][1], 1), number::variable(cov[1][1], 2));
    double sum = 0;
    std::array<double, 3> by_cov{};
    for (std::size_t i = 0; i < 2; ++i) {
      for (std::size_t j = 0; j < 2; ++j) {
        const double g = by_matrix[entry(i, j)];
        sum += g * e[i + j].v;
        for (std::size_t k = 0; k < 3; ++k) by_cov[k] += g * e[i + j].d[k];
      }
    }
    const double per_ampere = 2 * density_of_current(1, ref.particle) * radius / (bg * bg * bg);
    const double strength = per_ampere * std::fabs(*model.current) * length;
    r.strength = sum * std::copysign(per_ampere, *model.current) * length;
    r.length = sum * per_ampere * std::fabs(*model.current);
    r.kinetic = -3 * sum * strength / bg * by_kinetic;
    r.covariance[0] = strength * by_cov[0];
    r.covariance[2] = r.covariance[12] = strength * by_cov[1] / 2;
    r.covariance[14] = strength * by_cov[2];
    return r;
  }
  const std::array<double, 3> unit = {1, 1, -bg};
  const ellipsoid field(model, positions<3>(model, covariance, unit));
  const auto e = field.gradient();
  const double per_coulomb = particle_count(1, ref.particle) * radius / (bg * bg);
  const double strength = per_coulomb * std::fabs(charge) * length;
  double sum = 0, by_unit = 0;  // by_unit: by that of t
  square<3> by_gradient;
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t j = 0; j < 3; ++j) {
      const double g = by_matrix[entry(i, j)];
      sum += g * unit[i] * e[i][j] * unit[j];
      by_gradient[i][j] = strength * g * unit[i] * unit[j];
      if (i == 2) by_unit += strength * g * e[i][j] * unit[j];
      if (j == 2) by_unit += strength * g * unit[i] * e[i][j];
    }
  }
  const auto by_rest = field.pull(by_gradient);
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t j = 0; j < 3; ++j) {
      const double cov = covariance[12 * i + 2 * j];
      r.covariance[12 * i + 2 * j] = by_rest[i][j] * unit[i] * unit[j];
      if (i == 2) by_unit += by_rest[i][j] * unit[j] * cov;
      if (j == 2) by_unit += by_rest[i][j] * unit[i] * cov;
    }
  }
  r.charge = sum * std::copysign(per_coulomb, charge) * length;
  r.length = sum * per_coulomb * std::fabs(charge);
  r.kinetic = (-2 * sum * strength / bg - by_unit) * by_kinetic;
  return r;
}

}  // namespace

tracking::envelope_kick_pull pull_kick(const envelope_space_charge& model,
                                       const beam::matrix6& covariance, double charge,
                                       const beam::reference& ref, double length,
                                       const beam::matrix6& by_matrix) {
  const bool plane = model.model == envelope_model::beam_2d;
  const double amount = plane ? *model.current : charge;
  try {
    return pull_field(model, covariance, charge, ref, length, by_matrix);
  } catch (const std::invalid_argument&) {
    if (amount != 0 && length != 0) throw;
  }
  // Nothing acts, on a beam whose field would be infinite.
  tracking::envelope_kick_pull r;
  if (std::ranges::all_of(by_matrix, [](double g) { return g == 0; })) return r;
  const double none = std::numeric_limits<double>::quiet_NaN();
  if (length != 0) (plane ? r.strength : r.charge) = none;
  if (amount != 0) r.length = none;
  return r;
}

tracking::effect effect_of(const envelope_space_charge& model, int order, double spacing) {
  check(model);
  tracking::effect e;
  e.name = name_of(model.model);
  e.envelope_kick = [model](const std::array<double, 6>&, const beam::matrix6& covariance,
                            double charge, const tracking::kick_place& place) {
    return kick_matrix(model, covariance, charge, place.ref, place.length);
  };
  e.envelope_pull = [model](const std::array<double, 6>&, const beam::matrix6& covariance,
                            double charge, const tracking::kick_place& place,
                            const beam::matrix6& by_matrix) {
    return pull_kick(model, covariance, charge, place.ref, place.length, by_matrix);
  };
  e.order = order;
  e.spacing = spacing;
  e.reversible = true;
  return e;
}

}  // namespace betatron::collective
