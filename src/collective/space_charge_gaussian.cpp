#include "collective/space_charge_gaussian.h"

#include <array>
#include <cmath>
#include <stdexcept>
#include <string>

#include "beam/text.h"
#include "collective/principal_axes.h"
#include "collective/slice_profile.h"
#include "collective/space_charge_2d.h"
#include "collective/strength.h"
#include "fields/gaussian.h"
#include "numerics/parallel.h"

namespace betatron::collective {

namespace {

constexpr double euler_gamma = 0.57721566490153286061;
constexpr double log_2 = 0.69314718055994530942;

/// Particles that are worked on together: their doubles stay in the first-level cache.
constexpr std::size_t block = 256;

std::string name_of(gaussian_model m) {
  return m == gaussian_model::gauss_3d ? "SpaceChargeGaussian 3D" : "SpaceChargeGaussian 2.5D";
}

/// Moments with what the models need checked: false where there is nothing to do.
bool acts(const gaussian_space_charge& model, const beam::bunch& b, const beam::moments& m) {
  for (int i = 0; i < 6; i += 2) {
    const double sum = m.mean[static_cast<std::size_t>(i)] + m.covariance(i, i);
    if (b.size() > 0 && m.weight != 0 && !std::isfinite(sum)) {
      throw std::invalid_argument(name_of(model.model) + ": the beam has a coordinate " +
                                  beam::column_names[static_cast<std::size_t>(i)] +
                                  " that is not finite");
    }
  }
  return b.size() >= 2 && m.weight > 0;
}

void need_extent(const gaussian_space_charge& model, double variance, const char* where) {
  if (!(variance > 0)) {
    throw std::invalid_argument(name_of(model.model) + ": the beam has no extent " + where +
                                "; its field would be infinite");
  }
}

/// Calls work(first, count) for blocks of particles on all threads.
template <class Work>
void for_blocks(std::size_t n, unsigned threads, const Work& work) {
  constexpr std::size_t chunk = 64 * block;
  numerics::parallel_for(threads, (n + chunk - 1) / chunk, [&](std::size_t c) {
    const std::size_t end = std::min(n, (c + 1) * chunk);
    for (std::size_t i = c * chunk; i < end; i += block) work(i, std::min(block, end - i));
  });
}

template <class F>
void add(F& column, double kick) {
  column = static_cast<F>(static_cast<double>(column) + kick);
}

void kick_3d(const gaussian_space_charge& model, beam::bunch& b, const beam::moments& m,
             double length, unsigned threads) {
  const double bg = b.ref.beta_gamma();
  const std::array<double, 3> unit = {1, 1, -bg};  // of x, y, t in the rest frame
  std::array<std::array<double, 3>, 3> covariance;
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t j = 0; j < 3; ++j) {
      covariance[i][j] =
          unit[i] * unit[j] * m.covariance(static_cast<int>(2 * i), static_cast<int>(2 * j));
    }
  }
  const principal_axes<3> own = find_principal_axes<3>(covariance);
  need_extent(model, own.variance[0], "in one direction");
  const fields::gaussian_rule rule =
      fields::rule_3d(std::sqrt(own.variance[0]), std::sqrt(own.variance[1]),
                      std::sqrt(own.variance[2]), model.tolerance);
  const double strength = m.weight * classical_radius(b.ref.particle) * length;
  const std::array<double, 3> factor = {strength / (bg * bg), strength / (bg * bg), -strength / bg};

  b.visit([&](const auto& c) {
    for_blocks(c.size, threads, [&](std::size_t first, std::size_t count) {
      double r[3][block] = {}, e[3][block];
      for (std::size_t i = 0; i < count; ++i) {
        double d[3];
        for (std::size_t k = 0; k < 3; ++k) {
          d[k] = unit[k] * (static_cast<double>(c.z[2 * k][first + i]) - m.mean[2 * k]);
        }
        for (std::size_t a = 0; a < 3; ++a) {
          r[a][i] = own.axes[a][0] * d[0] + own.axes[a][1] * d[1] + own.axes[a][2] * d[2];
        }
      }
      fields::field_of(rule, r[0], r[1], r[2], e[0], e[1], e[2], count);
      for (std::size_t k = 0; k < 3; ++k) {
        for (std::size_t i = 0; i < count; ++i) {
          const double field =
              own.axes[0][k] * e[0][i] + own.axes[1][k] * e[1][i] + own.axes[2][k] * e[2][i];
          add(c.z[2 * k + 1][first + i], factor[k] * field);
        }
      }
    });
  });
}

void kick_2p5d(const gaussian_space_charge& model, beam::bunch& b, const beam::moments& m,
               double length, unsigned threads) {
  need_extent(model, m.max[4] - m.min[4], "in t");
  const principal_axes<2> own = find_principal_axes<2>(
      {{{m.covariance(0, 0), m.covariance(0, 2)}, {m.covariance(0, 2), m.covariance(2, 2)}}});
  need_extent(model, own.variance[0], "in one transverse direction");
  const fields::gaussian_2d shape{std::sqrt(own.variance[0]), std::sqrt(own.variance[1])};

  const double bg = b.ref.beta_gamma();
  const double strength = 2 * classical_radius(b.ref.particle) * length / (bg * bg * bg);
  const double scale = model.scale ? *model.scale : slice_scale(bg, m.sigma(4));
  const double centre =
      std::log(2 * scale / (shape.sigma_x + shape.sigma_y)) - (log_2 - euler_gamma) / 2;
  fields::gaussian_rule rule;
  if (model.longitudinal) {
    rule = fields::rule_2d_potential(shape.sigma_x, shape.sigma_y, model.tolerance);
  }

  const slice_profile density(b, model.density, name_of(model.model), threads);
  b.visit([&](const auto& c) {
    for_blocks(c.size, threads, [&](std::size_t first, std::size_t count) {
      double x[block] = {}, y[block] = {}, ex[block], ey[block], psi[block];
      for (std::size_t i = 0; i < count; ++i) {
        const double dx = static_cast<double>(c.z[0][first + i]) - m.mean[0];
        const double dy = static_cast<double>(c.z[2][first + i]) - m.mean[2];
        x[i] = own.axes[0][0] * dx + own.axes[0][1] * dy;
        y[i] = own.axes[1][0] * dx + own.axes[1][1] * dy;
      }
      fields::field_of(shape, x, y, ex, ey, count);
      if (model.longitudinal) fields::potential_of(rule, x, y, psi, count);
      for (std::size_t i = 0; i < count; ++i) {
        const slice_profile::local here = density.at(static_cast<double>(c.z[4][first + i]));
        const double f = strength * here.value;
        add(c.z[1][first + i], f * (own.axes[0][0] * ex[i] + own.axes[1][0] * ey[i]));
        add(c.z[3][first + i], f * (own.axes[0][1] * ex[i] + own.axes[1][1] * ey[i]));
        if (model.longitudinal) {
          add(c.z[5][first + i], -strength * here.slope * (centre - psi[i]));
        }
      }
    });
  });
}

}  // namespace

void check(const gaussian_space_charge& model) {
  const auto refuse = [&](const std::string& what, const char* allowed) {
    throw std::invalid_argument(name_of(model.model) + ": " + what +
                                " is not allowed; allowed: " + allowed);
  };
  if (!(model.tolerance >= 1e-14 && model.tolerance <= 1e-2)) {
    refuse("tolerance = " + beam::number_text(model.tolerance), "1e-14 ... 1e-2");
  }
  check(model.density, name_of(model.model));
  if (model.scale && !(*model.scale > 0 && std::isfinite(*model.scale))) {
    refuse("longitudinal_scale = " + beam::number_text(*model.scale) + " m", "> 0 and finite");
  }
}

void kick(const gaussian_space_charge& model, beam::bunch& b, double length, unsigned threads) {
  const beam::moments m = b.moments(threads);
  if (!acts(model, b, m) || length == 0) return;
  if (model.model == gaussian_model::gauss_3d) {
    kick_3d(model, b, m, length, threads);
  } else {
    kick_2p5d(model, b, m, length, threads);
  }
}

tracking::effect effect_of(const gaussian_space_charge& model, int order, double spacing) {
  check(model);
  tracking::effect e;
  e.name = name_of(model.model);
  e.kick = [model](beam::bunch& b, const tracking::kick_place& place) {
    kick(model, b, place.length, place.threads);
  };
  e.order = order;
  e.spacing = spacing;
  e.reversible = true;
  return e;
}

}  // namespace betatron::collective
