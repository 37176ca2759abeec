// beams.h: beams for the tests of what a beam does to itself.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

#include "beam/bunch.h"
#include "numerics/random.h"

namespace beams {

using namespace betatron;

inline beam::reference proton(double kinetic_eV) {
  return beam::reference::from_kinetic_energy(beam::make_species("proton"), kinetic_eV);
}

/// n Gaussian particles with these rms sizes (x, px, y, py, t, pt) and charge [C].
inline beam::bunch gaussian(const beam::reference& ref, std::size_t n, double charge,
                            const std::array<double, 6>& sigma,
                            beam::precision p = beam::precision::double_) {
  beam::bunch b(ref, n, p);
  b.visit([&]<class F>(const beam::columns<F>& c) {
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t k = 0; k < 6; ++k) {
        c.z[k][i] = static_cast<F>(sigma[k] * numerics::normal(17, k, i));
      }
    }
  });
  if (n > 0) b.set_charge(charge);
  return b;
}

inline double coordinate(const beam::bunch& b, std::size_t column, std::size_t i) {
  return b.visit([&](const auto& c) { return static_cast<double>(c.z[column][i]); });
}

/// Sum of weight times a column.
inline double total(const beam::bunch& b, std::size_t column) {
  return b.visit([&](const auto& c) {
    double sum = 0;
    for (std::size_t i = 0; i < c.size; ++i) {
      sum += static_cast<double>(c.weight[i]) * static_cast<double>(c.z[column][i]);
    }
    return sum;
  });
}

inline double largest(const beam::bunch& b, std::size_t column) {
  return b.visit([&](const auto& c) {
    double most = 0;
    for (std::size_t i = 0; i < c.size; ++i) {
      most = std::fmax(most, std::fabs(static_cast<double>(c.z[column][i])));
    }
    return most;
  });
}

}  // namespace beams
