#include "beam/spin.h"

#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "beam/text.h"
#include "numerics/constants.h"
#include "numerics/parallel.h"
#include "numerics/random.h"

namespace betatron::beam {

namespace {

using vector3 = std::array<double, 3>;

// Streams of spins; other uses of the same seed stay away from it.
constexpr std::uint64_t stream = 0x7370696e'00000000;  // "spin"

/// Not std::hypot of three: that of some libraries loses a NaN.
double length_of(const vector3& v) { return std::sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]); }

/// coth k - 1/k, k >= 0, and its derivative 1/k^2 - 1/sinh^2 k; the series where they cancel.
struct langevin {
  double value, slope;

  explicit langevin(double k) {
    if (k < 0.3) {
      const double q = k * k;
      value =
          k / 3 *
          (1 -
           q / 15 *
               (1 - q * 2 / 21 *
                        (1 - q / 10 *
                                 (1 - q * 10 / 99 * (1 - q * 691.0 / 6825 * (1 - q * 70 / 691))))));
      slope = (1 - q / 5 * (1 - q * 10 / 63 * (1 - q * 7 / 50))) / 3;
    } else {
      const double e = std::exp(-2 * k), sinh_squared = (1 - e) * (1 - e) / (4 * e);
      value = (1 + e) / (1 - e) - 1 / k;
      slope = 1 / (k * k) - 1 / sinh_squared;
    }
  }
};

/// A right-handed frame whose third axis is the unit vector n: T. Duff et al., Building an
/// orthonormal basis, revisited, J. Comput. Graph. Tech. 6 (2017).
struct frame {
  vector3 u, v, n;

  explicit frame(const vector3& axis) : n(axis) {
    const double sign = std::copysign(1.0, n[2]);
    const double a = -1 / (sign + n[2]), b = n[0] * n[1] * a;
    u = {1 + sign * n[0] * n[0] * a, sign * b, -sign * n[0]};
    v = {b, sign + n[1] * n[1] * a, -n[1]};
  }
};

template <class F>
void generate(const vector3& polarization, std::uint64_t seed, const columns<F>& out,
              std::uint64_t first_index, unsigned threads) {
  check_polarization(polarization);
  const double p = length_of(polarization);
  const vector3 axis = p > 0
                           ? vector3{polarization[0] / p, polarization[1] / p, polarization[2] / p}
                           : vector3{0, 0, 1};
  const double kappa = spin_concentration(p);
  const frame f(axis);
  numerics::parallel_ranges(threads, out.size, [&](std::size_t begin, std::size_t end) {
    for (std::size_t k = begin; k < end; ++k) {
      // 1 - n.S by inversion of its distribution; so written it is accurate for every kappa.
      const auto r = numerics::uniform_pair(seed, stream, first_index + k);
      const double below = kappa == 0 ? 2 * r.first
                           : std::isinf(kappa)
                               ? 0
                               : -std::log1p(r.first * std::expm1(-2 * kappa)) / kappa;
      const double across = std::sqrt(std::max(0.0, below * (2 - below)));
      const double angle = 2 * numerics::constants::pi * r.second;
      const double a = across * std::cos(angle), b = across * std::sin(angle);
      for (std::size_t i = 0; i < 3; ++i) {
        out.spin[i][k] = static_cast<F>(f.n[i] - below * f.n[i] + a * f.u[i] + b * f.v[i]);
      }
    }
  });
}

}  // namespace

double spin_concentration(double p) {
  if (p >= 1) return std::numeric_limits<double>::infinity();
  if (!(p > 0)) return 0;
  // A. Banerjee et al., J. Mach. Learn. Res. 6, 1345 (2005), eq. 4.4: right in both limits and to
  // some percent between them, so that Newton's method converges in a few steps.
  double k = p * (3 - p * p) / ((1 - p) * (1 + p));
  for (int i = 0; i < 20; ++i) {
    const langevin l(k);
    const double step = (p - l.value) / l.slope;
    k += step;
    if (std::abs(step) <= 1e-15 * k) break;
  }
  return k;
}

void check_polarization(const vector3& polarization) {
  const double length = length_of(polarization);
  if (length <= 1 + 1e-12) return;  // rounded unit vectors are fine
  throw std::invalid_argument("beam: polarization = (" + number_text(polarization[0]) + ", " +
                              number_text(polarization[1]) + ", " + number_text(polarization[2]) +
                              ") must be finite and of length <= 1, it has " + number_text(length));
}

void generate_spins(const vector3& polarization, std::uint64_t seed, const columns<float>& out,
                    std::uint64_t first_index, unsigned threads) {
  generate(polarization, seed, out, first_index, threads);
}

void generate_spins(const vector3& polarization, std::uint64_t seed, const columns<double>& out,
                    std::uint64_t first_index, unsigned threads) {
  generate(polarization, seed, out, first_index, threads);
}

}  // namespace betatron::beam
