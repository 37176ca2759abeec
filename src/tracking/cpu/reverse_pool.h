// reverse_pool.h: the numbers that the kernels of the reverse pass read, as they are laid out in memory; see
// adjoint_table.h.
#pragma once

#include <algorithm>
#include <vector>

#include "lattice/sensitivity.h"
#include "tracking/cpu/adjoint_table.h"

namespace betatron::tracking {

/// Coefficients of the reverse pass in the precision F, and the dual ones of each direction. With rates each number is
/// followed by its rate.
template <class F>
struct reverse_pool {
  std::vector<F> coefficients{}, duals{};
  std::vector<adjoint_direction<F>> directions{};  // they point into `duals`

  explicit reverse_pool(const lattice::sensitivity& plan, bool rates = false) {
    const std::size_t per_value = rates ? 2 : 1;
    const auto append = [rates](const std::vector<double>& values,
                                const std::vector<double>& their_rates, std::size_t i,
                                std::vector<F>& to) {
      to.push_back(static_cast<F>(values[i]));
      if (rates) to.push_back(static_cast<F>(their_rates[i]));
    };
    coefficients.reserve(per_value * plan.coefficients.size());
    for (std::size_t i = 0; i < plan.coefficients.size(); ++i) {
      append(plan.coefficients, plan.rates.coefficients, i, coefficients);
    }
    duals.reserve(2 * per_value * plan.tangents.size());  // pointers into it stay valid
    const auto append_duals = [&](std::size_t coefficient, std::size_t tangent, std::size_t n) {
      const F* first = duals.data() + duals.size();
      for (std::size_t i = 0; i < n; ++i) {
        append(plan.coefficients, plan.rates.coefficients, coefficient + i, duals);
        append(plan.tangents, plan.rates.tangents, tangent + i, duals);
      }
      return first;
    };
    for (const lattice::reverse_operation& op : plan.backward) {
      for (std::uint32_t d = 0; d < op.directions; ++d) {
        const std::size_t number = op.first_direction + d, next = number + 1;
        const lattice::reverse_direction& from = plan.directions[number];
        const std::size_t end =
            next < plan.directions.size() ? plan.directions[next].tangents : plan.tangents.size();
        const F* own = append_duals(op.coefficients, from.tangents, end - 2 - from.tangents);
        const F* energy = append_duals(from.energy, end - 2, 2);
        directions.push_back({own, from.moves_energy ? energy : nullptr});
      }
    }
  }

  reverse_pool(const reverse_pool&) = delete;
  reverse_pool& operator=(const reverse_pool&) = delete;
};

/// How many directions an operation has at most, at least 1.
inline std::size_t most_directions(const lattice::sensitivity& plan) {
  std::size_t most = 1;
  for (const lattice::reverse_operation& op : plan.backward) {
    most = std::max<std::size_t>(most, op.directions);
  }
  return most;
}

}  // namespace betatron::tracking
