// line_density.h: the beam projected on its arrival time, on equally spaced nodes.
//
// A macroparticle of charge q at t gives its nodes the charges q S(t - t_i), S the B-spline of order 2 (linear, two
// nodes) or 3 (quadratic, three nodes); they add up to q exactly. What is interpolated from nodes to particles uses
// the same S, so that the sum over particles of (charge x interpolated value) is the sum over nodes of (node charge x
// node value), to rounding: the energy that a beam loses is the integral of its density times the wake potential.
//
// Sums are formed in fixed chunks of particles that are merged in order: the same bits for any number of threads.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "beam/bunch.h"

namespace betatron::collective {

/// Order of the B-spline that spreads a particle over nodes.
enum class shape : int { linear = 2, quadratic = 3 };

/// Nodes t_i = start + i step, i = 0 ... nodes - 1.
struct line_grid {
  double start = 0;  ///< m
  double step = 0;   ///< m, > 0
  std::size_t nodes = 0;
  bool is_point = false;  ///< all particles of the beam it was made for have the same t

  double node(std::size_t i) const { return start + static_cast<double>(i) * step; }
};

struct line_options {
  std::size_t bins = 150;  ///< nodes between the first and the last particle, >= 2
  collective::shape shape = shape::linear;
  int smoothing = 0;  ///< passes of the filter (1, 2, 1)/4 over the node charges, >= 0
};

/// Throws std::invalid_argument naming the effect and the value unless 2 <= bins <= 20000 and 0 <= smoothing <= 10^4.
void check(const line_options& o, const std::string& effect);

/// Whether a bunch has slices: false where fewer than two particles carry charge, so that none is pushed by another. Throws
/// std::invalid_argument naming the effect where all that do have the same t.
bool has_slices(const beam::bunch& b, const std::string& effect);

/// A grid over all particles of the beam, with empty nodes at both ends for the shape and the filter. Where all
/// particles have the same t, the step is 1e-12 of |t| or of 1 m. Throws std::invalid_argument naming the effect where
/// a t is not finite.
line_grid grid_over(const beam::bunch& b, const line_options& o, const std::string& effect,
                    unsigned threads);

/// Sums over particles, per node: of charge [C], and if asked of charge times x and times y [C m]. The charge has no
/// sign: it is e |q| weight.
struct line_density {
  line_grid grid;
  std::vector<double> charge;
  std::vector<double> x_charge, y_charge;  ///< empty if not asked for

  double total() const;  ///< C
};

line_density deposit(const beam::bunch& b, const line_grid& grid, const line_options& o,
                     bool dipoles, unsigned threads);

/// `passes` times q_i <- (q_{i-1} + 2 q_i + q_{i+1})/4, in place; the ends are taken as reflecting, so that the sum
/// stays.
void smooth(std::span<double> q, int passes);

/// d(density)/dt at the nodes [unit of q per m^2], q being node charges: central differences, one-sided at the ends.
std::vector<double> derivative(std::span<const double> q, double step);

/// The adjoint of derivative(q, 1): to_j += factor sum_i by_i d(derivative_i)/dq_j.
void add_transposed_derivative(std::span<const double> by, double factor, std::span<double> to);

/// r_i = sum_j q_j kernel[n - 1 + i - j] for n = q.size(); the kernel has 2 n - 1 entries.
std::vector<double> convolve(std::span<const double> q, std::span<const double> kernel);

/// Weights of the nodes first ... first + order - 1 for a particle.
struct line_weights {
  std::size_t first;
  std::array<double, 3> w;
};

template <shape S>
line_weights weights_at(const line_grid& g, double t) {
  // a value outside the grid belongs to a particle that the grid was not made for: it takes the end
  const double last = static_cast<double>(g.nodes - 2);
  const double at = std::fmin(std::fmax((t - g.start) / g.step, 1.0), last);
  if constexpr (S == shape::linear) {
    const double i = std::fmin(std::floor(at), last);
    const double f = at - i;
    return {static_cast<std::size_t>(i), {1 - f, f, 0}};
  } else {
    const double i = std::fmin(std::floor(at + 0.5), last);
    const double f = at - i;
    return {static_cast<std::size_t>(i) - 1,
            {0.5 * (0.5 - f) * (0.5 - f), 0.75 - f * f, 0.5 * (0.5 + f) * (0.5 + f)}};
  }
}

/// The value that node values have at t.
template <shape S>
double interpolate(const line_weights& at, const double* values) {
  double v = at.w[0] * values[at.first] + at.w[1] * values[at.first + 1];
  if constexpr (S == shape::quadratic) v += at.w[2] * values[at.first + 2];
  return v;
}

/// f(std::integral_constant<shape, S>) with the shape as a constant.
template <class Function>
void with_shape(shape s, Function&& f) {
  if (s == shape::linear) {
    f(std::integral_constant<shape, shape::linear>{});
  } else {
    f(std::integral_constant<shape, shape::quadratic>{});
  }
}

}  // namespace betatron::collective
