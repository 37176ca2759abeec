#include "collective/ibs.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <stdexcept>
#include <string>

#include "beam/moments.h"
#include "beam/text.h"
#include "collective/carlson.h"
#include "collective/chunks.h"
#include "collective/principal_axes.h"
#include "lattice/program.h"
#include "numerics/constants.h"
#include "numerics/random.h"
#include "numerics/reduction.h"

namespace betatron::collective {

namespace {

using beam::matrix6;
using namespace numerics::constants;
using matrix3 = std::array<std::array<double, 3>, 3>;

constexpr std::array<std::size_t, 3> positions = {0, 2, 4}, momenta = {1, 3, 5};

double entry(const matrix6& m, std::size_t i, std::size_t j) { return m[6 * i + j]; }

/// u over (px, py, pt).
std::array<double, 3> rest_frame(const beam::reference& ref) {
  return {ref.beta_gamma(), ref.beta_gamma(), -1};
}

/// The inverse of a symmetric positive matrix and its determinant; 0 where it is singular.
double invert(const matrix3& a, matrix3& inverse) {
  const auto minor = [&](std::size_t i, std::size_t j) {
    const std::size_t r = (i + 1) % 3, s = (i + 2) % 3, c = (j + 1) % 3, d = (j + 2) % 3;
    return a[r][c] * a[s][d] - a[r][d] * a[s][c];
  };
  const double determinant = a[0][0] * minor(0, 0) + a[0][1] * minor(0, 1) + a[0][2] * minor(0, 2);
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t j = 0; j < 3; ++j) inverse[j][i] = minor(i, j) / determinant;
  }
  return determinant;
}

/// ln(r_max/r_min) in the rest frame; r_c is the classical radius of the particle.
double coulomb_logarithm(const matrix3& space, double density, double temperature,
                         const beam::reference& ref, double r_c) {
  const double gamma = ref.gamma();
  const double radius =
      std::sqrt(std::min({space[0][0], space[1][1], space[2][2] * gamma * gamma}));
  const double debye = std::sqrt(temperature / (4 * pi * density * r_c));
  const double classical = r_c / temperature;
  const double compton = planck_reduced * speed_of_light / elementary_charge / ref.particle.mass_eV;
  const double quantum = compton / (2 * std::sqrt(temperature));
  return std::log(std::min(radius, debye) / std::max(classical, quantum));
}

double classical_radius(const beam::reference& ref) {
  const double q = ref.particle.charge;
  return classical_electron_radius * q * q * electron_mass_eV / ref.particle.mass_eV;
}

}  // namespace

scattering scatter(const matrix6& covariance, const beam::reference& ref, double particles,
                   std::optional<double> logarithm, double line_density, const matrix3* known) {
  const std::array<double, 3> to_u = rest_frame(ref);
  matrix3 space, inverse, cross, local;  // <XX>, its inverse, <uX>, <uu> at one place
  // scaled to unit sizes: x, y and t may differ by many orders of magnitude
  std::array<double, 3> size;
  for (std::size_t i = 0; i < 3; ++i)
    size[i] = std::sqrt(entry(covariance, positions[i], positions[i]));
  for (std::size_t i = 0; i < 3; ++i) {
    if (!(size[i] > 0) || !std::isfinite(size[i])) {
      throw std::invalid_argument(std::string("IBS: the rms size of the bunch in ") +
                                  beam::column_names[positions[i]] + " is " +
                                  beam::number_text(size[i]) + " m; allowed: > 0");
    }
  }
  matrix3 correlation;
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t j = 0; j < 3; ++j) {
      space[i][j] = entry(covariance, positions[i], positions[j]);
      correlation[i][j] = space[i][j] / (size[i] * size[j]);
      cross[i][j] = to_u[i] * entry(covariance, momenta[i], positions[j]);
    }
  }
  const double determinant = invert(correlation, inverse);
  if (!(determinant > 0)) {
    throw std::invalid_argument("IBS: x, y and t of the bunch are fully correlated");
  }
  scattering s;
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t j = 0; j < 3; ++j) {
      double sum = 0;
      for (std::size_t k = 0; k < 3; ++k) sum += cross[i][k] * inverse[k][j] / (size[k] * size[j]);
      s.regression[i][j] = sum;
    }
  }
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t j = 0; j < 3; ++j) {
      double sum = to_u[i] * to_u[j] * entry(covariance, momenta[i], momenta[j]);
      for (std::size_t k = 0; k < 3; ++k) {
        sum -= 0.5 * (s.regression[i][k] * cross[j][k] + s.regression[j][k] * cross[i][k]);
      }
      local[i][j] = sum;
    }
  }
  const auto principal = find_principal_axes<3>(known ? *known : local);
  s.temperature = principal.variance;
  s.axes = principal.axes;
  const double hottest = s.temperature[2];
  if (!(hottest > 0) || !std::isfinite(hottest)) {
    throw std::invalid_argument("IBS: the bunch has no spread of momentum at one place");
  }
  // no axis is colder than rounding lets it be
  for (double& t : s.temperature) t = std::max(t, 1e-14 * hottest);

  const double volume = std::pow(4 * pi, 1.5) * ref.beta_gamma() * size[0] * size[1] * size[2] *
                        std::sqrt(determinant);
  double density = particles / volume;
  if (line_density > 0) density *= line_density * 2 * std::sqrt(pi) * size[2];
  const double r_c = classical_radius(ref);
  const double mean = (s.temperature[0] + s.temperature[1] + s.temperature[2]) / 3;
  s.logarithm = logarithm ? *logarithm : coulomb_logarithm(space, density, mean, ref, r_c);
  if (!(s.logarithm > 0) || !std::isfinite(s.logarithm)) {
    throw std::invalid_argument("IBS: the Coulomb logarithm is " + beam::number_text(s.logarithm) +
                                "; allowed: > 0 (the bunch is too cold or too thin for many small "
                                "collisions; or give coulomb_log)");
  }
  const double strength =
      4 * std::sqrt(pi) / 3 * density * r_c * r_c * s.logarithm / ref.beta_gamma();
  double all = 0;
  const auto& t = s.temperature;
  for (std::size_t i = 0; i < 3; ++i) {
    s.friction[i] = strength * carlson_rd(t[(i + 1) % 3], t[(i + 2) % 3], t[i]);
    all += s.friction[i] * t[i];
  }
  for (std::size_t i = 0; i < 3; ++i) s.diffusion[i] = all - s.friction[i] * t[i];
  return s;
}

matrix6 scattering::growth(const beam::reference& ref) const {
  const std::array<double, 3> to_u = rest_frame(ref);
  matrix6 g{};
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t j = 0; j < 3; ++j) {
      double sum = 0;
      for (std::size_t k = 0; k < 3; ++k) {
        sum += (diffusion[k] - 2 * friction[k] * temperature[k]) * axes[k][i] * axes[k][j];
      }
      g[6 * momenta[i] + momenta[j]] = sum / (to_u[i] * to_u[j]);
    }
  }
  return g;
}

namespace {

std::array<double, 6> times(const matrix6& a, const std::array<double, 6>& v) {
  std::array<double, 6> r{};
  for (std::size_t i = 0; i < 6; ++i) {
    for (std::size_t k = 0; k < 6; ++k) r[i] += a[6 * i + k] * v[k];
  }
  return r;
}

/// S v with S = ((0, 1), (-1, 0)) in each plane.
std::array<double, 6> twisted(const std::array<double, 6>& v) {
  return {v[1], -v[0], v[3], -v[2], v[5], -v[4]};
}

double dot(const std::array<double, 6>& a, const std::array<double, 6>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < 6; ++i) sum += a[i] * b[i];
  return sum;
}

/// The symplectic product of two columns.
double bracket(const matrix6& n, std::size_t j, std::size_t k) {
  std::array<double, 6> a, b;
  for (std::size_t i = 0; i < 6; ++i) {
    a[i] = n[6 * i + j];
    b[i] = n[6 * i + k];
  }
  return dot(a, twisted(b));
}

void check_symplectic(const matrix6& n) {
  for (std::size_t j = 0; j < 6; ++j) {
    for (std::size_t k = 0; k < 6; ++k) {
      const double wanted = j / 2 != k / 2 || j == k ? 0 : j < k ? 1 : -1;
      if (!(std::fabs(bracket(n, j, k) - wanted) < 1e-6)) {
        throw std::invalid_argument(
            "IBS: the normal form is not symplectic: the bracket of columns " + std::to_string(j) +
            " and " + std::to_string(k) + " is " + beam::number_text(bracket(n, j, k)));
      }
    }
  }
}

/// Rows a, b such that ((a z)^2 + (b z)^2)/2 is the action of a mode: those of the inverse of the normal form.
struct mode {
  std::array<double, 6> a, b;
};

}  // namespace

ibs_growth ibs_rates(const lattice::line& l, const beam::reference& start, const matrix6& normal,
                     const std::array<double, 3>& emittances, double particles,
                     std::optional<double> logarithm, double spacing) {
  if (!(spacing > 0) || !std::isfinite(spacing)) {
    throw std::invalid_argument("IBS: spacing = " + beam::number_text(spacing) +
                                " m is not allowed; allowed: > 0");
  }
  check_symplectic(normal);
  matrix6 covariance{};
  for (std::size_t i = 0; i < 6; ++i) {
    for (std::size_t j = 0; j < 6; ++j) {
      for (std::size_t k = 0; k < 6; ++k) {
        covariance[6 * i + j] += normal[6 * i + k] * emittances[k / 2] * normal[6 * j + k];
      }
    }
  }
  // rows of N^-1 = -S N^T S; their signs do not matter for actions
  std::array<mode, 3> modes;
  for (std::size_t n = 0; n < 3; ++n) {
    std::array<double, 6> q, p;
    for (std::size_t i = 0; i < 6; ++i) {
      q[i] = normal[6 * i + 2 * n];
      p[i] = normal[6 * i + 2 * n + 1];
    }
    modes[n] = {twisted(p), twisted(q)};
  }
  ibs_growth result;
  std::array<double, 3> sum{};
  double length = 0;
  beam::reference ref = start;
  matrix6 here = covariance;
  // rows of the modes are carried along: a(s) = a M^-1 = -a S M^T S for symplectic M
  std::array<mode, 3> rows = modes;
  const auto heat = [&](double weight) {
    const scattering s = scatter(here, ref, particles, logarithm);
    const matrix6 g = s.growth(ref);
    for (std::size_t n = 0; n < 3; ++n) {
      sum[n] += weight * 0.5 *
                (dot(rows[n].a, times(g, rows[n].a)) + dot(rows[n].b, times(g, rows[n].b)));
    }
    result.logarithm += weight * s.logarithm;
  };
  for (const auto& pointer : l.elements) {
    const lattice::element& e = *pointer;
    const double total = std::fabs(lattice::length(e));
    const int slices = lattice::slice_count(e);
    const double wanted = std::ceil(total / spacing / slices);
    if (wanted > 1e6) {
      throw std::invalid_argument("IBS: spacing = " + beam::number_text(spacing) + " m cuts " +
                                  lattice::describe(e) + " into more than 1e6 pieces");
    }
    const int count = total == 0 ? slices : slices * std::max(1, static_cast<int>(wanted));
    const double step = total / count;
    for (int k = 0; k < count; ++k) {
      // trapezoids, from right behind the entrance to right in front of the exit; the maps of pole faces are in the
      // first and the last piece
      if (step > 0) heat(0.5 * step);
      const matrix6 m = lattice::derivative(e, k, count, ref, {}).matrix;
      here = beam::sandwich(m, here);
      for (mode& r : rows) {
        for (auto* row : {&r.a, &r.b}) {
          // (a M^-1)^T = -S M S a^T; the sign does not matter
          *row = twisted(times(m, twisted(*row)));
        }
      }
      if (step > 0) heat(0.5 * step);
      length += step;
    }
  }
  if (!(length > 0)) throw std::invalid_argument("IBS: the line has no length");
  result.logarithm /= length;
  const double per_second = start.beta() * speed_of_light / length;
  for (std::size_t n = 0; n < 3; ++n) {
    result.rate[n] = sum[n] * per_second / emittances[n];
  }
  return result;
}

namespace {

/// A stream of random numbers for one kick.
std::uint64_t stream_of(const tracking::kick_place& at) {
  std::uint64_t h = 0x1b5;
  for (const std::uint64_t part :
       {static_cast<std::uint64_t>(at.turn), static_cast<std::uint64_t>(at.element),
        std::bit_cast<std::uint64_t>(at.from)}) {
    h += part + 0x9e3779b97f4a7c15u;  // splitmix64
    h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9u;
    h = (h ^ (h >> 27)) * 0x94d049bb133111ebu;
    h ^= h >> 31;
  }
  return h & ~std::uint64_t{1};  // two streams per kick
}

/// What kicks need to know of the bunch.
struct bunch_state {
  const beam::moments& m;
  const line_grid& grid;
  std::span<const double> relative;  ///< density along t over its mean, at the nodes
  const matrix3& regression;
  std::array<double, 3> to_u;
};

/// u of a particle relative to the mean at its place.
template <class F>
std::array<double, 3> thermal(const bunch_state& b, const beam::columns<F>& c, std::size_t n) {
  std::array<double, 3> u, away;
  for (std::size_t i = 0; i < 3; ++i) {
    away[i] = static_cast<double>(c.z[positions[i]][n]) - b.m.mean[positions[i]];
  }
  for (std::size_t i = 0; i < 3; ++i) {
    u[i] = b.to_u[i] * (static_cast<double>(c.z[momenta[i]][n]) - b.m.mean[momenta[i]]);
    for (std::size_t k = 0; k < 3; ++k) u[i] -= b.regression[i][k] * away[k];
  }
  return u;
}

template <shape S, class F>
double relative_density(const bunch_state& b, const beam::columns<F>& c, std::size_t n) {
  return interpolate<S>(weights_at<S>(b.grid, static_cast<double>(c.z[4][n])), b.relative.data());
}

/// <u u> weighted with the density.
template <class F>
matrix3 temperature_of(const beam::columns<F>& c, const bunch_state& b, shape order,
                       unsigned threads) {
  std::vector<std::array<double, 10>> sums(chunk_count(c.size));
  with_shape(order, [&](auto spline) {
    for_chunks(c.size, threads, [&](std::size_t chunk, std::size_t first, std::size_t last) {
      std::array<double, 10> sum{};
      for (std::size_t n = first; n < last; ++n) {
        const auto u = thermal(b, c, n);
        const double weight =
            static_cast<double>(c.weight[n]) * relative_density<spline()>(b, c, n);
        for (std::size_t i = 0; i < 3; ++i) {
          for (std::size_t j = 0; j < 3; ++j) sum[3 * i + j] += weight * u[i] * u[j];
        }
        sum[9] += weight;
      }
      sums[chunk] = sum;
    });
  });
  std::array<double, 10> all{};
  for (const auto& sum : sums) {
    for (std::size_t i = 0; i < 10; ++i) all[i] += sum[i];
  }
  matrix3 t;
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t j = 0; j < 3; ++j) t[i][j] = all[3 * i + j] / all[9];
  }
  return t;
}

template <class F>
void kick_particles(const beam::columns<F>& c, const scattering& s, const bunch_state& b,
                    shape order, double length, std::uint64_t seed, std::uint64_t stream,
                    unsigned threads) {
  std::vector<double> change(3 * c.size);
  std::vector<std::array<double, 4>> sums(chunk_count(c.size));
  with_shape(order, [&](auto spline) {
    for_chunks(c.size, threads, [&](std::size_t chunk, std::size_t first, std::size_t last) {
      std::array<double, 4> sum{};
      for (std::size_t n = first; n < last; ++n) {
        const double path = length * relative_density<spline()>(b, c, n);
        const auto u = thermal(b, c, n);
        const auto pair = numerics::normal_pair(seed, stream, c.id[n]);
        const std::array<double, 3> random = {pair.first, pair.second,
                                              numerics::normal(seed, stream + 1, c.id[n])};
        std::array<double, 3> du{};
        for (std::size_t k = 0; k < 3; ++k) {
          const double along = s.axes[k][0] * u[0] + s.axes[k][1] * u[1] + s.axes[k][2] * u[2];
          // exact for constant friction k and diffusion D: u -> u e^-kl + sqrt(D (1 - e^-2kl)/(2k)) g
          const double depth = s.friction[k] * path;
          const double spread =
              std::sqrt(-s.diffusion[k] / (2 * s.friction[k]) * std::expm1(-2 * depth));
          const double step = std::expm1(-depth) * along + spread * random[k];
          for (std::size_t i = 0; i < 3; ++i) du[i] += step * s.axes[k][i];
        }
        const double weight = static_cast<double>(c.weight[n]);
        for (std::size_t i = 0; i < 3; ++i) {
          change[3 * n + i] = du[i] / b.to_u[i];
          sum[i] += weight * change[3 * n + i];
        }
        sum[3] += weight;
      }
      sums[chunk] = sum;
    });
  });
  std::array<double, 4> all{};
  for (const auto& sum : sums) {
    for (std::size_t i = 0; i < 4; ++i) all[i] += sum[i];
  }
  for_chunks(c.size, threads, [&](std::size_t, std::size_t first, std::size_t last) {
    for (std::size_t n = first; n < last; ++n) {
      for (std::size_t i = 0; i < 3; ++i) {
        F& p = c.z[momenta[i]][n];
        p = static_cast<F>(static_cast<double>(p) + change[3 * n + i] - all[i] / all[3]);
      }
    }
  });
}

}  // namespace

tracking::effect ibs(const ibs_options& o) {
  check(o.density, "IBS");
  if (o.logarithm && (!(*o.logarithm > 0) || !std::isfinite(*o.logarithm))) {
    throw std::invalid_argument("IBS: coulomb_log = " + beam::number_text(*o.logarithm) +
                                " is not allowed; allowed: > 0, or none");
  }
  tracking::effect e;
  e.name = "IBS";
  e.order = o.order;
  e.spacing = o.spacing;
  e.kick = [o](beam::bunch& b, const tracking::kick_place& at) {
    if (b.size() == 0 || at.length == 0) return;
    const beam::moments m = b.moments(at.threads);
    if (!(m.weight > 0)) return;
    const line_grid grid = grid_over(b, o.density, "IBS", at.threads);
    const line_density d = deposit(b, grid, o.density, false, at.threads);
    const double total = d.total();
    const double mean = numerics::dot(d.charge, d.charge) / (grid.step * total * total);
    const double line = grid.is_point ? 0 : mean;
    std::vector<double> relative = d.charge;  // density over its mean
    for (double& r : relative) r /= grid.step * total * mean;
    const scattering first = scatter(m.cov, at.ref, m.weight, o.logarithm, line);
    const bunch_state state{m, grid, relative, first.regression, rest_frame(at.ref)};
    b.visit([&](const auto& c) {
      const matrix3 local = temperature_of(c, state, o.density.shape, at.threads);
      const scattering s = scatter(m.cov, at.ref, m.weight, o.logarithm, line, &local);
      kick_particles(c, s, state, o.density.shape, at.length, o.seed, stream_of(at), at.threads);
    });
  };
  return e;
}

}  // namespace betatron::collective
