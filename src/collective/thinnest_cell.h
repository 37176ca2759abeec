// thinnest_cell.h: how thin cells of a grid may be, for all solvers of space charge.
#pragma once

namespace betatron::collective {

/// The shortest edge of a cell over the longest. What is thinner is a sheet or a line of that thickness: rounding alone
/// separates particles there, and what differences of a potential say about such distances is noise.
inline constexpr double thinnest_cell = 1e-8;

/// Particles below which a line of them is no line: there is no force across it that is large beside the noise of long and
/// thin cells in three dimensions. Those are at least `thinnest_of_few`.
inline constexpr unsigned few_particles = 1000;
inline constexpr double thinnest_of_few = 1e-6;

/// [m] The same for the cross-section of a beam of a current, whose length is not known.
inline constexpr double thinnest_of_current = 1e-9;

}  // namespace betatron::collective
