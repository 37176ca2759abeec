// lattice/taylor.h: the map of a stretch of lattice as power series.
#pragma once

#include <array>
#include <cstddef>
#include <vector>

#include "beam/reference.h"
#include "lattice/line.h"

namespace betatron::lattice {

inline constexpr int max_taylor_order = 4;

/// Coordinates behind the elements as power series in those in front, less `start`.
struct taylor_series {
  int order;
  std::vector<double> coefficients;  ///< six rows, each in the order of numerics/taylor.h
};

/// Power series of elements [first, last) in their models around the particle `start`, exact to rounding (the maps are
/// pushed with truncated power series); ref is moved to the end. Apertures are ignored. Throws std::invalid_argument for
/// an order that is not 1 ... max_taylor_order, and as compile().
taylor_series expand(const line& l, std::size_t first, std::size_t last, beam::reference& ref,
                     int order, const std::array<double, 6>& start = {});

/// The same for piece `index` of `count` equal ones of an element.
taylor_series expand(const element& e, int index, int count, beam::reference& ref, int order,
                     const std::array<double, 6>& start);

}  // namespace betatron::lattice
