#include "collective/space_charge_gaussian.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>
#include <string>

#include "beam/text.h"
#include "collective/line_pull.h"
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
constexpr std::size_t block = fields::gaussian_block;

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
  if (b.size() < 2 || !(m.weight > 0)) return false;
  return model.model == gaussian_model::gauss_2p5d ? has_slices(b, name_of(model.model)) : true;
}

void need_extent(const gaussian_space_charge& model, double variance, const char* where) {
  if (!(variance > 0)) {
    throw std::invalid_argument(name_of(model.model) + ": the beam has no extent " + where +
                                "; its field would be infinite");
  }
}

constexpr std::size_t chunk_size = 64 * block;
std::size_t chunks_of(std::size_t n) { return (n + chunk_size - 1) / chunk_size; }

/// Calls work(chunk, first, count) for blocks of particles on all threads; blocks of a chunk in order.
template <class Work>
void for_blocks(std::size_t n, unsigned threads, const Work& work) {
  numerics::parallel_for(threads, chunks_of(n), [&](std::size_t c) {
    const std::size_t end = std::min(n, (c + 1) * chunk_size);
    for (std::size_t i = c * chunk_size; i < end; i += block) work(c, i, std::min(block, end - i));
  });
}

template <class F>
void add(F& column, double kick) {
  column = static_cast<F>(static_cast<double>(column) + kick);
}

/// A bunch in its rest frame.
struct resting_bunch {
  double beta_gamma;
  std::array<double, 3> unit;  ///< of x, y, t there
  std::array<std::array<double, 3>, 3> covariance;
  principal_axes<3> own;
  fields::gaussian_rule rule;
  std::array<double, 3> factor;  ///< of px, py, pt by fields, for a path of this length

  resting_bunch(const gaussian_space_charge& model, const beam::bunch& b, const beam::moments& m,
                double length)
      : beta_gamma(b.ref.beta_gamma()), unit{1, 1, -beta_gamma} {
    for (std::size_t i = 0; i < 3; ++i) {
      for (std::size_t j = 0; j < 3; ++j) {
        covariance[i][j] =
            unit[i] * unit[j] * m.covariance(static_cast<int>(2 * i), static_cast<int>(2 * j));
      }
    }
    own = find_principal_axes<3>(covariance);
    need_extent(model, own.variance[0], "in one direction");
    rule = fields::rule_3d(std::sqrt(own.variance[0]), std::sqrt(own.variance[1]),
                           std::sqrt(own.variance[2]), model.tolerance);
    const double strength = m.weight * classical_radius(b.ref.particle) * length;
    factor = {strength / (beta_gamma * beta_gamma), strength / (beta_gamma * beta_gamma),
              -strength / beta_gamma};
  }
};

/// A long bunch, in slices.
struct sliced_bunch {
  principal_axes<2> own;
  fields::gaussian_2d shape;
  double strength;  ///< of fields, for a path of this length
  double centre;    ///< the potential there
  slice_profile density;

  sliced_bunch(const gaussian_space_charge& model, const beam::bunch& b, const beam::moments& m,
               double length, unsigned threads)
      : own(transverse_axes(model, m)),
        shape{std::sqrt(own.variance[0]), std::sqrt(own.variance[1])},
        density(b, model.density, name_of(model.model), threads) {
    const double bg = b.ref.beta_gamma();
    strength = 2 * classical_radius(b.ref.particle) * length / (bg * bg * bg);
    const double scale = model.scale ? *model.scale : slice_scale(bg, m.sigma(4));
    centre = std::log(2 * scale / (shape.sigma_x + shape.sigma_y)) - (log_2 - euler_gamma) / 2;
  }

  fields::gaussian_rule potential_rule(double tolerance) const {
    return fields::rule_2d_potential(shape.sigma_x, shape.sigma_y, tolerance);
  }

 private:
  static principal_axes<2> transverse_axes(const gaussian_space_charge& model,
                                           const beam::moments& m) {
    const principal_axes<2> own = find_principal_axes<2>(
        {{{m.covariance(0, 0), m.covariance(0, 2)}, {m.covariance(0, 2), m.covariance(2, 2)}}});
    need_extent(model, own.variance[0], "in one transverse direction");
    return own;
  }
};

void kick_3d(const gaussian_space_charge& model, beam::bunch& b, const beam::moments& m,
             double length, unsigned threads) {
  const resting_bunch rest(model, b, m, length);
  const principal_axes<3>& own = rest.own;
  b.visit([&](const auto& c) {
    for_blocks(c.size, threads, [&](std::size_t, std::size_t first, std::size_t count) {
      double r[3][block] = {}, e[3][block];
      for (std::size_t i = 0; i < count; ++i) {
        double d[3];
        for (std::size_t k = 0; k < 3; ++k) {
          d[k] = rest.unit[k] * (static_cast<double>(c.z[2 * k][first + i]) - m.mean[2 * k]);
        }
        for (std::size_t a = 0; a < 3; ++a) {
          r[a][i] = own.axes[a][0] * d[0] + own.axes[a][1] * d[1] + own.axes[a][2] * d[2];
        }
      }
      fields::field_of(rest.rule, r[0], r[1], r[2], e[0], e[1], e[2], count);
      for (std::size_t k = 0; k < 3; ++k) {
        for (std::size_t i = 0; i < count; ++i) {
          const double field =
              own.axes[0][k] * e[0][i] + own.axes[1][k] * e[1][i] + own.axes[2][k] * e[2][i];
          add(c.z[2 * k + 1][first + i], rest.factor[k] * field);
        }
      }
    });
  });
}

void kick_2p5d(const gaussian_space_charge& model, beam::bunch& b, const beam::moments& m,
               double length, unsigned threads) {
  const sliced_bunch slices(model, b, m, length, threads);
  const principal_axes<2>& own = slices.own;
  fields::gaussian_rule rule;
  if (model.longitudinal) rule = slices.potential_rule(model.tolerance);
  b.visit([&](const auto& c) {
    for_blocks(c.size, threads, [&](std::size_t, std::size_t first, std::size_t count) {
      double x[block] = {}, y[block] = {}, ex[block], ey[block], psi[block];
      for (std::size_t i = 0; i < count; ++i) {
        const double dx = static_cast<double>(c.z[0][first + i]) - m.mean[0];
        const double dy = static_cast<double>(c.z[2][first + i]) - m.mean[2];
        x[i] = own.axes[0][0] * dx + own.axes[0][1] * dy;
        y[i] = own.axes[1][0] * dx + own.axes[1][1] * dy;
      }
      fields::field_of(slices.shape, x, y, ex, ey, count);
      if (model.longitudinal) fields::potential_of(rule, x, y, psi, count);
      for (std::size_t i = 0; i < count; ++i) {
        const slice_profile::local here = slices.density.at(static_cast<double>(c.z[4][first + i]));
        const double f = slices.strength * here.value;
        add(c.z[1][first + i], f * (own.axes[0][0] * ex[i] + own.axes[1][0] * ey[i]));
        add(c.z[3][first + i], f * (own.axes[0][1] * ex[i] + own.axes[1][1] * ey[i]));
        if (model.longitudinal) {
          add(c.z[5][first + i], -slices.strength * here.slope * (slices.centre - psi[i]));
        }
      }
    });
  });
}

/// Sums of a chunk of particles.
struct partial {
  double by_covariance[6] = {};  // in the principal axes, see fields::pull_of
  std::array<double, 3> by_mean{}, work{};
  double along = 0, by_logarithm = 0;

  void add(const partial& p) {
    for (std::size_t k = 0; k < 6; ++k) by_covariance[k] += p.by_covariance[k];
    for (std::size_t k = 0; k < 3; ++k) {
      by_mean[k] += p.by_mean[k];
      work[k] += p.work[k];
    }
    along += p.along;
    by_logarithm += p.by_logarithm;
  }
};

/// A symmetric matrix from principal axes, given as xx, yx, yy, ..., to those of the beam.
template <std::size_t N>
std::array<std::array<double, N>, N> turned_back(const principal_axes<N>& own, const double* t) {
  std::array<std::array<double, N>, N> m{};
  for (std::size_t a = 0; a < N; ++a) {
    for (std::size_t b = 0; b < N; ++b) {
      const std::size_t i = std::max(a, b), j = std::min(a, b);
      const double value = t[i * (i + 1) / 2 + j];
      for (std::size_t k = 0; k < N; ++k) {
        for (std::size_t l = 0; l < N; ++l) m[k][l] += own.axes[a][k] * own.axes[b][l] * value;
      }
    }
  }
  return m;
}

/// lambda of the first N planes += unit (2 cov' (z - mean) - by_mean) w/W: what the moments pass on.
template <std::size_t N>
void pull_moments(beam::bunch& b, const tracking::covector& lambda, const beam::moments& m,
                  const std::array<double, 3>& unit,
                  const std::array<std::array<double, N>, N>& by_covariance,
                  const std::array<double, 3>& by_mean, unsigned threads) {
  b.visit([&]<class F>(const beam::columns<F>& c) {
    const std::array<F*, 6>& by = lambda.of<F>();
    for_blocks(c.size, threads, [&](std::size_t, std::size_t first, std::size_t count) {
      for (std::size_t i = first; i < first + count; ++i) {
        const double share = static_cast<double>(c.weight[i]) / m.weight;
        std::array<double, N> d;
        for (std::size_t k = 0; k < N; ++k) {
          d[k] = unit[k] * (static_cast<double>(c.z[2 * k][i]) - m.mean[2 * k]);
        }
        for (std::size_t k = 0; k < N; ++k) {
          double slope = -by_mean[k];
          for (std::size_t l = 0; l < N; ++l) slope += 2 * by_covariance[k][l] * d[l];
          add(by[2 * k][i], unit[k] * share * slope);
        }
      }
    });
  });
}

tracking::kick_slopes pull_3d(const gaussian_space_charge& model, beam::bunch& b,
                              const beam::moments& m, const tracking::covector& lambda,
                              double length, unsigned threads) {
  const resting_bunch rest(model, b, m, 1);  // per length of the kick
  const double bg = rest.beta_gamma;
  const principal_axes<3>& own = rest.own;
  const std::array<double, 3>&unit = rest.unit, &factor = rest.factor;

  std::vector<partial> parts(chunks_of(b.size()));
  b.visit([&]<class F>(const beam::columns<F>& c) {
    const std::array<F*, 6>& by = lambda.of<F>();
    for_blocks(c.size, threads, [&](std::size_t chunk, std::size_t first, std::size_t count) {
      partial& sum = parts[chunk];
      double r[3][block] = {}, g[3][block] = {}, e[3][block], by_r[3][block];
      for (std::size_t i = 0; i < count; ++i) {
        for (std::size_t k = 0; k < 3; ++k) {
          const double d = unit[k] * (static_cast<double>(c.z[2 * k][first + i]) - m.mean[2 * k]);
          const double l = factor[k] * static_cast<double>(by[2 * k + 1][first + i]);
          for (std::size_t a = 0; a < 3; ++a) {
            r[a][i] += own.axes[a][k] * d;
            g[a][i] += own.axes[a][k] * l;
          }
        }
      }
      fields::pull_of(rest.rule, {r[0], r[1], r[2]}, {g[0], g[1], g[2]}, {e[0], e[1], e[2]},
                      {by_r[0], by_r[1], by_r[2]}, sum.by_covariance);
      for (std::size_t k = 0; k < 3; ++k) {
        for (std::size_t i = 0; i < count; ++i) {
          double field = 0, slope = 0, place = 0;
          for (std::size_t a = 0; a < 3; ++a) {
            field += own.axes[a][k] * e[a][i];
            slope += own.axes[a][k] * by_r[a][i];
            place += own.axes[a][k] * r[a][i];
          }
          sum.by_mean[k] += slope;
          sum.work[k] += factor[k] * static_cast<double>(by[2 * k + 1][first + i]) * field;
          if (k == 2) sum.along += slope * place;
          add(by[2 * k][first + i], length * unit[k] * slope);
          add(c.z[2 * k + 1][first + i], -length * factor[k] * field);
        }
      }
    });
  });
  partial all;
  for (const partial& p : parts) all.add(p);
  for (double& t : all.by_covariance) t *= length;
  for (double& v : all.by_mean) v *= length;
  const auto by_covariance = turned_back(own, all.by_covariance);
  pull_moments<3>(b, lambda, m, unit, by_covariance, all.by_mean, threads);
  tracking::kick_slopes slopes;
  slopes.length = all.work[0] + all.work[1] + all.work[2];
  slopes.charge = length * slopes.length;
  double by_logarithm =
      length * (all.along - 2 * (all.work[0] + all.work[1]) - all.work[2]);  // of beta gamma
  for (std::size_t k = 0; k < 3; ++k)
    by_logarithm += 2 * by_covariance[2][k] * rest.covariance[2][k];
  slopes.kinetic = by_logarithm * b.ref.gamma() / (bg * bg);
  return slopes;
}

tracking::kick_slopes pull_2p5d(const gaussian_space_charge& model, beam::bunch& b,
                                const beam::moments& m, const tracking::covector& lambda,
                                double length, unsigned threads) {
  const sliced_bunch slices(model, b, m, 1, threads);  // per length of the kick
  const principal_axes<2>& own = slices.own;
  const double strength = slices.strength;
  const fields::gaussian_rule rule = slices.potential_rule(model.tolerance);

  const std::size_t size = b.size();
  std::vector<partial> parts(chunks_of(size));
  std::vector<double> by_value(size), by_slope(model.longitudinal ? size : 0);
  b.visit([&]<class F>(const beam::columns<F>& c) {
    const std::array<F*, 6>& by = lambda.of<F>();
    for_blocks(size, threads, [&](std::size_t chunk, std::size_t first, std::size_t count) {
      partial& sum = parts[chunk];
      double r[2][block] = {}, g[2][block] = {}, p[block] = {}, e[2][block], psi[block] = {},
             by_r[2][block];
      slice_profile::local here[block];
      for (std::size_t i = 0; i < count; ++i) {
        here[i] = slices.density.at(static_cast<double>(c.z[4][first + i]));
        const double f = strength * here[i].value;
        for (std::size_t k = 0; k < 2; ++k) {
          const double d = static_cast<double>(c.z[2 * k][first + i]) - m.mean[2 * k];
          const double l = f * static_cast<double>(by[2 * k + 1][first + i]);
          for (std::size_t a = 0; a < 2; ++a) {
            r[a][i] += own.axes[a][k] * d;
            g[a][i] += own.axes[a][k] * l;
          }
        }
        if (model.longitudinal) {
          p[i] = -strength * here[i].slope * static_cast<double>(by[5][first + i]);
        }
      }
      // the way back takes the fields of the kick, the derivatives those of the rule
      fields::field_of(slices.shape, r[0], r[1], e[0], e[1], count);
      if (model.longitudinal) fields::potential_of(rule, r[0], r[1], psi, count);
      fields::pull_of(rule, {r[0], r[1]}, {g[0], g[1]}, p, {by_r[0], by_r[1]}, sum.by_covariance);
      for (std::size_t i = 0; i < count; ++i) {
        double seen = 0;
        const double f = strength * here[i].value;
        for (std::size_t k = 0; k < 2; ++k) {
          const double field = own.axes[0][k] * e[0][i] + own.axes[1][k] * e[1][i];
          const double slope = own.axes[0][k] * by_r[0][i] + own.axes[1][k] * by_r[1][i];
          seen += static_cast<double>(by[2 * k + 1][first + i]) * field;
          sum.by_mean[k] += slope;
          add(by[2 * k][first + i], length * slope);
          add(c.z[2 * k + 1][first + i], -length * f * field);
        }
        sum.work[0] += f * seen;
        by_value[first + i] = length * strength * seen;
        if (!model.longitudinal) continue;
        const double u = slices.centre - psi[i];
        sum.along += p[i] * u;
        sum.by_logarithm += p[i];
        by_slope[first + i] = -length * strength * static_cast<double>(by[5][first + i]) * u;
        add(c.z[5][first + i], length * strength * here[i].slope * u);
      }
    });
  });
  partial all;
  for (const partial& part : parts) all.add(part);
  for (double& t : all.by_covariance) t *= length;
  for (double& v : all.by_mean) v *= length;
  pull_moments<2>(b, lambda, m, {1, 1, 1}, turned_back(own, all.by_covariance), all.by_mean,
                  threads);
  pull_profile(b, lambda, slices.density, model.density, by_value, by_slope, threads);
  const bool own_scale = model.longitudinal && !model.scale;
  if (own_scale) pull_sigma_t(b, lambda, m, length * all.by_logarithm);
  const double bg = b.ref.beta_gamma();
  tracking::kick_slopes slopes;
  slopes.length = all.work[0] + all.along;
  slopes.charge = length * slopes.length;
  slopes.kinetic = length * (-3 * slopes.length + (own_scale ? all.by_logarithm : 0)) *
                   b.ref.gamma() / (bg * bg);
  return slopes;
}

}  // namespace

tracking::kick_slopes pull(const gaussian_space_charge& model, beam::bunch& b,
                           const tracking::covector& lambda, double length, unsigned threads) {
  const beam::moments m = b.moments(threads);
  if (!acts(model, b, m)) return {};
  return model.model == gaussian_model::gauss_3d ? pull_3d(model, b, m, lambda, length, threads)
                                                 : pull_2p5d(model, b, m, lambda, length, threads);
}

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
  e.pull = [model](beam::bunch& b, const tracking::covector& lambda,
                   const tracking::kick_place& place) {
    return pull(model, b, lambda, place.length, place.threads);
  };
  if (model.model == gaussian_model::gauss_2p5d) {
    e.begin = [model](const lattice::line&, const beam::bunch& b, lattice::direction) {
      has_slices(b, name_of(model.model));
    };
  }
  e.order = order;
  e.spacing = spacing;
  e.reversible = true;
  return e;
}

}  // namespace betatron::collective
