// energy_kick.h: kicks given at the nodes of a line density, brought to the particles.
#pragma once

#include <span>
#include <vector>

#include "beam/bunch.h"
#include "collective/line_density.h"

namespace betatron::collective {

/// pt <- pt - gain(t)/(p0 c), the gain in energy [eV] being given at the nodes.
void add_energy(beam::bunch& b, const line_grid& grid, shape s, std::span<const double> gain,
                unsigned threads);

/// The same for a column of momenta (1: px, 3: py, 5: pt), in units of p0: += kick(t) + q gradient(t), q the coordinate
/// of the plane (x for px, y for py). The gradient may be empty.
void add_kick(beam::bunch& b, std::size_t column, const line_grid& grid, shape s,
              std::span<const double> kick, std::span<const double> gradient, unsigned threads);

}  // namespace betatron::collective
