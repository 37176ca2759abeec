// stage_kernels.h: the parts of a structured plasma stage around its network, for one instruction set, as a table of
// functions: from canonical coordinates to features, from what the network says to canonical coordinates, and both
// backwards. The formulas are in plasma_stage.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace betatron::surrogate {

constexpr int stage_features = 5, stage_outputs = 7;

/// Numbers of a stage and of the reference particle on its two sides, for kernels.
template <class F>
struct stage_numbers {
  F inverse_beta, momentum;      ///< in front: 1/beta0, beta0 gamma0
  F inverse_momentum_behind;     ///< 1/(beta0 gamma0)
  F gamma_behind, clock_behind;  ///< gamma0; t of the reference particle at the plane of the exit
  F xi;                          ///< of the reference particle
  F root_focusing;               ///< sqrt K [1/m]
  F advance;                     ///< 2 sqrt(K) L
  F inverse_amplitude;           ///< 1/A [1/m]
};

/// The domain of a stage: bounds of each feature and an ellipsoid.
template <class F>
struct stage_bounds {
  F lower[stage_features], upper[stage_features], centre[stage_features];
  F whitening[stage_features][stage_features];  ///< lower triangle
  F limit;                                      ///< of the squared distance
};

/// What is known of a particle inside the stage, in columns: x, y, z [m] at the time when the reference particle is at
/// the entrance, px, py [m c], gamma, 1/sqrt(gamma).
enum stage_column {
  stage_x,
  stage_y,
  stage_z,
  stage_px,
  stage_py,
  stage_gamma,
  stage_slow,
  stage_columns
};

template <class F>
struct stage_kernels {
  /// z: canonical coordinates at the entrance; columns, features: results; outside: 1 for who is not in the domain,
  /// square: of the distance from its centre (neither is written if null). `count` is a multiple of `width`, as everywhere here.
  void (*enter)(const stage_numbers<F>&, const stage_bounds<F>&, const F* const* z,
                F* const* columns, F* const* features, std::uint8_t* outside, F* square,
                std::size_t count);
  /// Canonical coordinates at the exit.
  void (*leave)(const stage_numbers<F>&, const F* const* columns, const F* const* outputs,
                F* const* z, std::size_t count);
  /// lambda: derivatives by coordinates at the exit. Replaces outputs by the derivatives by them, and gives those by
  /// the columns.
  void (*leave_back)(const stage_numbers<F>&, const F* const* columns, const F* const* lambda,
                     F* const* outputs, F* const* columns_bar, std::size_t count);
  /// Derivatives by the coordinates at the entrance into lambda, from those by columns and features.
  void (*enter_back)(const stage_numbers<F>&, const F* const* z, const F* const* columns,
                     const F* const* columns_bar, const F* const* features_bar, F* const* lambda,
                     std::size_t count);
  std::size_t width;  ///< lanes per pack
};

/// The table for this processor, see numerics/dispatch.h.
template <class F>
const stage_kernels<F>& kernels_of_stages();

}  // namespace betatron::surrogate
