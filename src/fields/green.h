// green.h: the potential of a box of charge, from which the integrated Green's function is made.
//
// A cell of the grid holds its charge uniformly; the potential at a distance d of its centre is the average of 1/r
// over the cell (J. Qiang, S. Lidia, R. D. Ryne, C. Limborg-Deprey, PRSTAB 9 (2006) 044204). The antiderivative
//
//   F = yz asinh(x/sqrt(y^2+z^2)) + xz asinh(y/sqrt(x^2+z^2)) + xy asinh(z/sqrt(x^2+y^2))
//     - x^2/2 atan(yz/(x r)) - y^2/2 atan(xz/(y r)) - z^2/2 atan(xy/(z r))
//
// at the eight corners gives it exactly, but loses (distance/cell)^3 in digits: everything at the far corner of a
// grid, and more in a flat or long cell. (With logarithms ln(x + r) instead of the inverse hyperbolic sines, which
// differ by functions that drop out, it loses still more.) So the integral is closed only along those edges of the
// cell that are not short compared with the distance:
//   all edges short           Taylor series of 1/r to fourth order
//   two edges short           closed along the third, 3 x 3 Gauss points across
//   one edge short            closed in the plane of the others, 3 Gauss points across
//   none                      F
// "Short" is less than 1/16 of the distance, where the series and the quadratures are good to 1e-9 or better.
#pragma once

#include <array>
#include <cstddef>
#include <vector>

namespace betatron::fields {

/// Edges shorter than the distance over this are short.
inline constexpr double short_edge = 16;

/// The average of 1/r over a box with these edges (> 0; one may be 0: over a rectangle) around `centre` [1/length].
double average_inverse_distance(const std::array<double, 3>& centre,
                                const std::array<double, 3>& edges);

/// The same at the nodes (i, j, k) of a grid with these cells, i < n[0] ...; i fastest. Boxes share their corners.
std::vector<double> average_inverse_distances(const std::array<std::size_t, 3>& n,
                                              const std::array<double, 3>& edges, unsigned threads);

/// The derivative of the same by one edge h, where the centre is a fixed multiple i of it along that axis:
///   (-G + (F_+ + F_-)/2 + i (F_+ - F_-))/h,   F_+-: averages over the two faces of the box across the axis.
double average_inverse_distance_slope(const std::array<double, 3>& centre,
                                      const std::array<double, 3>& edges, std::size_t axis);

}  // namespace betatron::fields
