// line_pull.h: the adjoint of kicks that follow from a line density (see line_density.h).
//
// With a_p = (t_p - start)/step, B-splines S and node values v, g of a kick (as in add_kick), node charges q_i = unit
// sum_p w_p S_i(a_p) and X_i = unit sum_p w_p x_p S_i(a_p), and the derivatives lambda of a loss by the momenta:
//   dp_p = sum_i S_i(a_p) (v_i + x_p g_i)      derivatives by v: sum_p lambda_p S_i, by g: sum_p lambda_p x_p S_i
// which whoever knows how v and g follow from q, X and the step turns into derivatives q', X' and step' by these. Then
//   dLoss/da_p = lambda_p sum_i S_i' (v_i + x_p g_i) + unit w_p sum_i S_i' (q'_i + x_p X'_i) =: n_p,
//   dLoss/dx_p = lambda_p sum_i S_i g_i + unit w_p sum_i S_i X'_i,             dLoss/dt_p = n_p/step.
// The grid lies over the beam: a = (t - middle)/step + centre, with middle and step from the first and the last particle.
// Of dLoss/d middle = -sum n_p/step each of the two gets half; dLoss/d step = step' - sum n_p (a_p - centre)/step goes to them
// with +-1/(bins - 1).
#pragma once

#include <array>
#include <functional>
#include <span>
#include <vector>

#include "collective/line_density.h"
#include "tracking/effect.h"

namespace betatron::collective {

class line_pull {
 public:
  /// The beam is behind the kick, the covector too.
  line_pull(beam::bunch& b, const tracking::covector& lambda, const line_grid& grid,
            const line_options& o, unsigned threads)
      : bunch_(b), lambda_(lambda), grid_(grid), options_(o), threads_(threads) {}

  /// Derivatives by the node values of a kick on column 1, 3 or 5; by_coordinate: of its gradient.
  std::vector<double> by_nodes(std::size_t column, bool by_coordinate) const;

  /// sum_p weight_p S_i, for functions of the density that act on particles in other ways.
  std::vector<double> by_nodes(std::span<const double> weights) const;

  /// Node values of the kick, or empty.
  struct kick {
    std::vector<double> value{}, gradient{};
  };
  /// Derivatives by node charges, as line_density has them [C, C m], or empty.
  struct sources {
    std::vector<double> charge{}, x_charge{}, y_charge{};
  };

  /// A function that particles see at their places: the derivative of the loss by it, per particle, and its node values.
  struct seen {
    std::span<const double> weights, values;
  };

  /// Takes beam and covector to the front of the kicks on px, py, pt. by_step: by the step of the grid at fixed places
  /// a_p. Of what is seen only the derivative is taken.
  void finish(const std::array<kick, 3>& kicks, sources by, double by_step,
              std::span<const seen> others = {}) const;

 private:
  template <class Weight>
  std::vector<double> sum_on_nodes(const Weight& weight) const;

  beam::bunch& bunch_;
  const tracking::covector& lambda_;
  const line_grid& grid_;
  const line_options& options_;
  unsigned threads_;
};

class slice_profile;

/// The adjoint of a slice_profile: the derivatives of the loss by the value and the slope that each particle sees become
/// those by t. by_slope may be empty. Momenta are left alone.
void pull_profile(beam::bunch& b, const tracking::covector& lambda, const slice_profile& profile,
                  const line_options& o, std::span<const double> by_value,
                  std::span<const double> by_slope, unsigned threads);

/// Adds what follows from the derivative of the loss by the logarithm of sigma_t: w_p (t_p - mean)/(W sigma_t^2) of it.
void pull_sigma_t(beam::bunch& b, const tracking::covector& lambda, const beam::moments& m,
                  double by_logarithm);

/// f'(x) of a smooth function that varies on the length `scale`, to about 1e-10 of it, by central differences of order 8.
double central_slope(const std::function<double(double)>& f, double x, double scale);

/// Slopes of line_weights by the place in cells.
template <shape S>
std::array<double, 3> weight_slopes_at(const line_weights& at) {
  if constexpr (S == shape::linear) {
    return {-1, 1, 0};
  } else {
    // w_0 = (1/2 - f)^2/2, w_2 = (1/2 + f)^2/2
    const double f = at.w[2] - at.w[0];
    return {f - 0.5, -2 * f, f + 0.5};
  }
}

}  // namespace betatron::collective
