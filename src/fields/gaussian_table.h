// gaussian_table.h: the vector kernels of gaussian.h of one instruction set, as a table of functions.
//
// gaussian_kernels.cpp is compiled once per instruction set; gaussian.cpp picks a table at run time.
#pragma once

#include <cstddef>

#include "fields/gaussian.h"

namespace betatron::fields {

struct gaussian_table {
  /// Points per pack; n is a multiple of it in all functions.
  std::size_t width;

  void (*field_2d)(const gaussian_2d& beam, const double* x, const double* y, double* ex,
                   double* ey, std::size_t n);
  /// e = x_i sum weight inverse_i exp(...), over `nodes` nodes.
  void (*field_3d)(const double* const* inverse, const double* weight, std::size_t nodes,
                   const double* const* r, double* const* e, std::size_t n);
  void (*potential)(const double* const* inverse, const double* weight, std::size_t nodes,
                    const double* const* r, double* psi, std::size_t n);
  /// See pull_of; sums: 6 and 3 numbers, added to.
  void (*pull_3d)(const double* const* inverse, const double* weight, std::size_t nodes,
                  const double* const* r, const double* const* g, double* const* e,
                  double* const* by_r, double* sums, std::size_t n);
  void (*pull_2d)(const double* const* inverse, const double* weight, std::size_t nodes,
                  const double* const* r, const double* const* g, const double* by_potential,
                  double* const* by_r, double* sums, std::size_t n);
};

/// The table for this processor, see numerics/dispatch.h.
const gaussian_table& gaussian_kernels();

}  // namespace betatron::fields
