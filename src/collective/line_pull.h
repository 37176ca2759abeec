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

  /// Node values of the kick, or empty.
  struct kick {
    std::vector<double> value{}, gradient{};
  };
  /// Derivatives by node charges, as line_density has them [C, C m], or empty.
  struct sources {
    std::vector<double> charge{}, x_charge{}, y_charge{};
  };

  /// Takes beam and covector to the front of the kicks on px, py, pt. by_step: by the step of the grid at fixed places
  /// a_p.
  void finish(const std::array<kick, 3>& kicks, sources by, double by_step) const;

 private:
  beam::bunch& bunch_;
  const tracking::covector& lambda_;
  const line_grid& grid_;
  const line_options& options_;
  unsigned threads_;
};

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
