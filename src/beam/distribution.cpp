#include "beam/distribution.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "beam/text.h"
#include "numerics/constants.h"
#include "numerics/parallel.h"
#include "numerics/random.h"

namespace betatron::beam {

namespace {

using numerics::random_pair;
using vector6 = std::array<double, 6>;

constexpr double two_pi = 2 * numerics::constants::pi;

constexpr std::array<std::string_view, 8> names = {
    "gaussian", "waterbag", "kv", "kurth4d", "kurth6d", "semigaussian", "triangle", "thermal"};
constexpr std::size_t of_any_covariance = 7;  // the names before this one

constexpr std::array<const char*, 3> plane_names = {"x", "y", "t"};

// ----------------------------------------------------------------------------------------------
// shapes Each sampler fills u = (x, px, y, py, t, pt) with unit variances. `draw` gives the k-th
// pair of numbers of one particle; a sampler uses each k once.

struct draw {
  std::uint64_t seed, index;

  // Streams of initial distributions start here; other uses of the same seed stay away from it.
  static constexpr std::uint64_t first_stream = 0x64697374'00000000;  // "dist"

  random_pair uniform(std::uint64_t k) const {
    return numerics::uniform_pair(seed, first_stream + k, index);
  }
  random_pair normal(std::uint64_t k) const {
    return numerics::normal_pair(seed, first_stream + k, index);
  }
};

/// Normal in each plane, radius r: r^2 = -2 ln(1 - u (1 - e^-f)), f = cut^2/2, and r^2 divided by
/// 1 - f e^-f/(1 - e^-f), the mean of r^2/2 after the cut.
struct gaussian_sampler {
  std::array<double, 3> kept, scale;  // 1 - e^-f; 2/(mean of r^2/2)

  explicit gaussian_sampler(const std::array<double, 3>& cut) {
    for (std::size_t k = 0; k < 3; ++k) {
      const double f = std::max(cut[k] * cut[k] / 2, 1e-300);
      kept[k] = -std::expm1(-f);
      // The mean is f/2 - f^2/12 + f^4/720 - ... for small f, where the closed form cancels.
      const double mean = f < 1e-2  ? f / 2 * (1 - f / 6 * (1 - f * f / 60))
                          : f < 700 ? 1 - f / std::expm1(f)
                                    : 1;
      scale[k] = 2 / mean;
    }
  }

  vector6 operator()(const draw& from) const {
    vector6 u;
    for (std::size_t k = 0; k < 3; ++k) {
      const random_pair a = from.uniform(k);
      const double r = std::sqrt(-scale[k] * std::log1p(-a.first * kept[k]));
      u[2 * k] = r * std::cos(two_pi * a.second);
      u[2 * k + 1] = r * std::sin(two_pi * a.second);
    }
    return u;
  }
};

/// Uniform in the ball of radius sqrt(8): a normal vector gives the direction, u^(1/6) the radius.
struct waterbag_sampler {
  vector6 operator()(const draw& from) const {
    const random_pair a = from.normal(0), b = from.normal(1), c = from.normal(2);
    const double square = a.first * a.first + a.second * a.second + b.first * b.first +
                          b.second * b.second + c.first * c.first + c.second * c.second;
    const double r = std::sqrt(8 / square * std::cbrt(from.uniform(3).first));
    return {r * a.first, r * a.second, r * b.first, r * b.second, r * c.first, r * c.second};
  }
};

/// Longitudinal plane of the transverse shapes: t uniform, pt normal.
double uniform_of_unit_variance(double u) { return std::sqrt(3.0) * (2 * u - 1); }

/// Uniform on the sphere x^2 + px^2 + y^2 + py^2 = 4: x^2 + y^2 is then uniform.
struct kv_sampler {
  vector6 operator()(const draw& from) const {
    const random_pair a = from.uniform(0), b = from.uniform(1), c = from.normal(2);
    const double r = 2 * std::sqrt(a.first), p = 2 * std::sqrt(1 - a.first);
    const double phi = two_pi * a.second, psi = two_pi * b.first;
    return {r * std::cos(phi),
            p * std::cos(psi),
            r * std::sin(phi),
            p * std::sin(psi),
            uniform_of_unit_variance(b.second),
            c.first};
  }
};

/// In units of the edge: density 1/(2 pi^2) (1 - r^2 - p^2 + L^2)^(-1/2), L = x py - y px, wherever
/// the root is real and |L| <= r. So (x, y) is uniform in the disk, the azimuthal momentum L/r
/// uniform in (-1, 1), and the radial one follows the arcsine law within +-sqrt((1 - r^2)(1 -
/// L^2/r^2)).
struct kurth4d_sampler {
  vector6 operator()(const draw& from) const {
    const random_pair a = from.uniform(0), b = from.uniform(1), c = from.normal(3);
    const double r = std::sqrt(a.first), phi = two_pi * a.second;
    const double around = 2 * b.first - 1;
    const double out = std::sqrt((1 - a.first) * (1 - around * around)) *
                       std::cos(numerics::constants::pi * b.second);
    const double cosine = 2 * std::cos(phi), sine = 2 * std::sin(phi);  // edge 2: unit variance
    return {r * cosine,
            out * cosine - around * sine,
            r * sine,
            out * sine + around * cosine,
            uniform_of_unit_variance(from.uniform(2).first),
            c.first};
  }
};

/// In units of the edge: density 3/(4 pi^3) (1 - r^2 - p^2 + L^2)^(-1/2), L the angular momentum of
/// (x, y, t) and (px, py, pt): (x, y, t) uniform in the ball, the tangential momentum uniform in
/// the unit disk, the radial one arcsine within +-sqrt((1 - r^2)(1 - L^2/r^2)).
struct kurth6d_sampler {
  vector6 operator()(const draw& from) const {
    const random_pair a = from.uniform(0), b = from.uniform(1), c = from.uniform(2);
    const double edge = std::sqrt(5.0);
    const double r = std::cbrt(a.first);
    const double cos_theta = 2 * a.second - 1, sin_theta = std::sqrt(1 - cos_theta * cos_theta);
    const double cos_phi = std::cos(two_pi * b.first), sin_phi = std::sin(two_pi * b.first);
    const double tangential = std::sqrt(b.second), psi = two_pi * c.second;
    const double along_phi = tangential * std::cos(psi), along_theta = tangential * std::sin(psi);
    const double out =
        std::sqrt((1 - r * r) * (1 - b.second)) * std::cos(numerics::constants::pi * c.first);
    const double in_plane = out * sin_theta + along_theta * cos_theta;  // away from the t axis
    return {edge * r * sin_theta * cos_phi, edge * (in_plane * cos_phi - along_phi * sin_phi),
            edge * r * sin_theta * sin_phi, edge * (in_plane * sin_phi + along_phi * cos_phi),
            edge * r * cos_theta,           edge * (out * cos_theta - along_theta * sin_theta)};
  }
};

struct semigaussian_sampler {
  vector6 operator()(const draw& from) const {
    const random_pair a = from.uniform(0), b = from.normal(2);
    const double r = 2 * std::sqrt(a.first), phi = two_pi * a.second;
    return {r * std::cos(phi),
            b.first,
            r * std::sin(phi),
            b.second,
            uniform_of_unit_variance(from.uniform(1).first),
            from.normal(3).first};
  }
};

/// t between the head -sqrt(2) and the tail 2 sqrt(2), density (2 sqrt(2) - t)/9; transverse ball
/// of radius sqrt(6) in four dimensions.
struct triangle_sampler {
  vector6 operator()(const draw& from) const {
    const random_pair a = from.uniform(0), b = from.normal(1), c = from.normal(2);
    const double square =
        b.first * b.first + b.second * b.second + c.first * c.first + c.second * c.second;
    const double r = std::sqrt(6 / square * std::sqrt(a.second));
    const double t = std::sqrt(2.0) * (2 - 3 * std::sqrt(a.first));
    return {r * b.first, r * b.second, r * c.first, r * c.second, t, from.normal(3).first};
  }
};

/// Position isotropic with the radial profile of its population, momenta normal with its temperature;
/// in units of the rms values of the whole beam. The third axis is zeta, so t and pt change sign.
struct thermal_sampler {
  const thermal_profile& profile;

  vector6 operator()(const draw& from) const {
    const random_pair a = from.uniform(0), b = from.uniform(1), c = from.normal(2);
    const thermal_parameters& p = profile.parameters();
    const bool halo = a.first < p.halo;
    const double r = profile.radius(halo, a.second) / profile.sigma_position();
    const double momentum = std::sqrt(halo ? p.kT_halo : p.kT) / profile.sigma_momentum();
    const double cosine = 2 * b.first - 1, sine = std::sqrt(1 - cosine * cosine);
    return {r * sine * std::cos(two_pi * b.second),
            momentum * c.first,
            r * sine * std::sin(two_pi * b.second),
            momentum * c.second,
            r * cosine,
            momentum * from.normal(3).first};
  }
};

// ----------------------------------------------------------------------------------------------
// filling

template <class F, class Sampler>
void fill(const distribution& from, std::uint64_t seed, const columns<F>& out,
          std::uint64_t first_index, unsigned threads, const Sampler& sample) {
  const auto fill_range = [&](std::size_t begin, std::size_t end) {
    for (std::size_t k = begin; k < end; ++k) {
      const vector6 u = sample(draw{seed, first_index + k});
      for (std::size_t i = 0; i < 6; ++i) {
        double z = 0;
        for (std::size_t j = 0; j < 6; ++j) z += from.factor[6 * i + j] * u[j];
        out.z[i][k] = static_cast<F>(from.mean[i] + z);
      }
    }
  };
  numerics::parallel_ranges(threads, out.size, fill_range);
}

template <class F>
void fill_shape(const distribution& from, std::uint64_t seed, const columns<F>& out,
                std::uint64_t first_index, unsigned threads) {
  const auto with = [&](const auto& sampler) {
    fill(from, seed, out, first_index, threads, sampler);
  };
  switch (from.kind) {
    case shape::gaussian:
      return with(gaussian_sampler(from.cut));
    case shape::waterbag:
      return with(waterbag_sampler());
    case shape::kv:
      return with(kv_sampler());
    case shape::kurth4d:
      return with(kurth4d_sampler());
    case shape::kurth6d:
      return with(kurth6d_sampler());
    case shape::semigaussian:
      return with(semigaussian_sampler());
    case shape::triangle:
      return with(triangle_sampler());
    case shape::thermal:
      return with(thermal_sampler{*from.profile});
  }
}

// ----------------------------------------------------------------------------------------------
// checks

[[noreturn]] void reject(const std::string& what, double value, const std::string& allowed) {
  throw std::invalid_argument("distribution: " + what + " = " + number_text(value) + " must be " +
                              allowed);
}

void check(const std::string& what, double value, bool valid, const std::string& allowed) {
  if (!(std::isfinite(value) && valid)) reject(what, value, "finite" + allowed);
}

distribution with_mean(shape kind, const vector6& mean, bool thermal = false) {
  if ((kind == shape::thermal) != thermal) {
    throw std::invalid_argument("distribution: a thermal beam is made by from_thermal");
  }
  for (std::size_t i = 0; i < 6; ++i) {
    check(std::string("mean of ") + column_names[i], mean[i], true, "");
  }
  distribution d;
  d.kind = kind;
  d.mean = mean;
  return d;
}

void add_dispersion(matrix6& factor, const dispersion_vector& dispersion) {
  const std::array<double, 4> values = {dispersion.x, dispersion.px, dispersion.y, dispersion.py};
  for (std::size_t i = 0; i < 4; ++i) {
    check(std::string("dispersion_") + column_names[i], values[i], true, "");
    for (std::size_t j = 0; j < 6; ++j) factor[6 * i + j] -= values[i] * factor[6 * 5 + j];
  }
}

std::string entry(std::size_t i, std::size_t j) {
  return std::string("covariance(") + column_names[i] + ", " + column_names[j] + ")";
}

/// The symmetric part, after all checks.
matrix6 checked_covariance(const matrix6& cov) {
  matrix6 symmetric, correlation;
  std::array<double, 6> sigma;
  for (std::size_t i = 0; i < 6; ++i) {
    for (std::size_t j = 0; j < 6; ++j) check(entry(i, j), cov[6 * i + j], true, "");
    check(entry(i, i), cov[7 * i], cov[7 * i] >= 0, " and >= 0");
    sigma[i] = std::sqrt(cov[7 * i]);
  }
  for (std::size_t i = 0; i < 6; ++i) {
    for (std::size_t j = 0; j < 6; ++j) {
      const double upper = cov[6 * i + j], lower = cov[6 * j + i];
      if (std::abs(upper - lower) > 1e-10 * sigma[i] * sigma[j]) {
        reject(entry(i, j), upper, "equal to " + entry(j, i) + " = " + number_text(lower));
      }
      symmetric[6 * i + j] = upper / 2 + lower / 2;
      const double scale = sigma[i] * sigma[j];
      if (scale == 0 && symmetric[6 * i + j] != 0) {
        reject(entry(i, j), upper, "0 where a variance is 0");
      }
      correlation[6 * i + j] = scale == 0 ? 0 : symmetric[6 * i + j] / scale;
    }
  }
  // Of the correlation matrix, since the coordinates have different units and scales.
  const double smallest = diagonalise(correlation).values[0];
  if (smallest < -1e-12) {
    reject("smallest eigenvalue of the correlation matrix of the covariance", smallest,
           ">= 0: the matrix is not positive semidefinite");
  }
  return symmetric;
}

}  // namespace

std::vector<std::string_view> shape_names() {
  return {names.begin(), names.begin() + of_any_covariance};
}

std::string_view name_of(shape kind) { return names[static_cast<std::size_t>(kind)]; }

shape shape_from_name(std::string_view name) {
  const std::vector<std::string_view> all = shape_names();
  const auto found = std::ranges::find(all, name);
  if (found != all.end()) return static_cast<shape>(found - all.begin());
  std::string message = "distribution: unknown shape '" + std::string(name) + "'; known are";
  for (const std::string_view known : all) message += " " + std::string(known);
  throw std::invalid_argument(message);
}

matrix6 distribution::covariance() const {
  matrix6 cov{};
  for (std::size_t i = 0; i < 6; ++i) {
    for (std::size_t j = 0; j < 6; ++j) {
      for (std::size_t k = 0; k < 6; ++k) cov[6 * i + j] += factor[6 * i + k] * factor[6 * j + k];
    }
  }
  return cov;
}

distribution distribution::from_ellipse(shape kind, const std::array<ellipse_parameters, 3>& planes,
                                        const dispersion_vector& dispersion,
                                        const std::array<double, 6>& mean) {
  distribution d = with_mean(kind, mean);
  for (std::size_t k = 0; k < 3; ++k) {
    const auto [lambda_q, lambda_p, mu] = planes[k];
    const std::string name = plane_names[k];
    check("lambda_" + name, lambda_q, lambda_q >= 0, " and >= 0 (m)");
    check("lambda_p" + name, lambda_p, lambda_p >= 0, " and >= 0");
    check("mu_" + name + "p" + name, mu, std::abs(mu) < 1, " and between -1 and 1, exclusive");
    const double root = std::sqrt((1 - mu) * (1 + mu));
    const std::size_t q = 2 * k, p = q + 1;
    d.factor[6 * q + q] = lambda_q / root;
    d.factor[6 * p + q] = -mu * lambda_p / root;
    d.factor[6 * p + p] = lambda_p;
  }
  add_dispersion(d.factor, dispersion);
  return d;
}

distribution distribution::from_twiss(shape kind,
                                      const std::array<courant_snyder_parameters, 3>& planes,
                                      const dispersion_vector& dispersion,
                                      const std::array<double, 6>& mean) {
  distribution d = with_mean(kind, mean);
  for (std::size_t k = 0; k < 3; ++k) {
    const auto [beta, alpha, emittance] = planes[k];
    const std::string name = plane_names[k];
    check("beta_" + name, beta, beta > 0, " and > 0 (m)");
    check("alpha_" + name, alpha, true, "");
    check("emittance_" + name, emittance, emittance >= 0, " and >= 0 (m rad)");
    const double momentum = std::sqrt(emittance / beta);
    const std::size_t q = 2 * k, p = q + 1;
    d.factor[6 * q + q] = std::sqrt(emittance * beta);
    d.factor[6 * p + q] = -alpha * momentum;
    d.factor[6 * p + p] = momentum;
  }
  add_dispersion(d.factor, dispersion);
  return d;
}

distribution distribution::from_covariance(shape kind, const matrix6& covariance,
                                           const std::array<double, 6>& mean) {
  distribution d = with_mean(kind, mean);
  d.factor = semidefinite_factor(checked_covariance(covariance), {4, 5, 0, 1, 2, 3});
  return d;
}

distribution distribution::from_thermal(const thermal_parameters& parameters, const reference& ref,
                                        double charge, const std::array<double, 6>& mean) {
  using namespace numerics::constants;
  check("charge", charge, charge >= 0, " and >= 0 (C; the species gives the sign)");
  distribution d = with_mean(shape::thermal, mean, true);
  const double bg = ref.beta_gamma();
  const double intensity = std::abs(ref.particle.charge) * charge /
                           (vacuum_permittivity * bg * bg * ref.particle.mass_eV);
  d.profile = std::make_shared<const thermal_profile>(parameters, intensity);
  const double q = d.profile->sigma_position(), p = d.profile->sigma_momentum();
  const std::array<double, 6> sigma = {q, p, q, p, -q / bg, -p * bg};  // zeta = -bg t
  for (std::size_t i = 0; i < 6; ++i) d.factor[7 * i] = sigma[i];
  return d;
}

distribution distribution::with_cuts(double x, double y, double t) const {
  if (kind != shape::gaussian) {
    throw std::invalid_argument("distribution: cuts are for the gaussian shape, this one is " +
                                std::string(name_of(kind)));
  }
  distribution d = *this;
  d.cut = {x, y, t};
  for (std::size_t k = 0; k < 3; ++k) {
    if (!(d.cut[k] > 0)) {
      reject(std::string("cut_") + plane_names[k], d.cut[k], "> 0 (sigma; infinity for no cut)");
    }
  }
  return d;
}

void generate(const distribution& from, std::uint64_t seed, const columns<float>& out,
              std::uint64_t first_index, unsigned threads) {
  fill_shape(from, seed, out, first_index, threads);
}

void generate(const distribution& from, std::uint64_t seed, const columns<double>& out,
              std::uint64_t first_index, unsigned threads) {
  fill_shape(from, seed, out, first_index, threads);
}

}  // namespace betatron::beam
