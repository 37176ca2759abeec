// columns.h: the raw view of a beam's particles that kernels work on.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace betatron::beam {

// Coordinates are in the order x, px, y, py, t, pt everywhere: in columns, means, covariances and
// matrices. x, y, t in m; px, py, pt relative to the reference momentum; t > 0 is late, pt < 0 is
// more energy.

/// Names of the coordinates and of the weight column (index 6), as used in tables and error
/// messages.
inline constexpr std::array<const char*, 7> column_names = {"x", "px", "y",     "py",
                                                            "t", "pt", "weight"};

/// Names of the components of the spin.
inline constexpr std::array<const char*, 3> spin_names = {"sx", "sy", "sz"};

/// Pointers to the columns of `size` particles. F is float or double, const for a read-only view.
///
/// z       the six coordinates x, px, y, py, t, pt
/// weight  number of real particles that each macroparticle stands for, >= 0
/// id      a number that stays with the particle
/// spin    components of the spin in the local frame (x, y, direction of flight) of the reference
///         particle, a unit vector; null pointers where the beam has no spins
template <class F>
struct columns {
  using value_type = std::remove_const_t<F>;
  using id_type = std::conditional_t<std::is_const_v<F>, const std::uint64_t, std::uint64_t>;

  std::array<F*, 6> z{};
  F* weight = nullptr;
  id_type* id = nullptr;
  std::size_t size = 0;
  std::array<F*, 3> spin{};  // sx, sy, sz

  bool has_spin() const { return spin[0] != nullptr; }

  operator columns<const value_type>() const
    requires(!std::is_const_v<F>)
  {
    return {{z[0], z[1], z[2], z[3], z[4], z[5]}, weight, id, size, {spin[0], spin[1], spin[2]}};
  }
};

}  // namespace betatron::beam
