// tile_code.h: compiled code of others (a network, a user's C function) as part of an element.
//
// Two kinds of code stand in a lattice. Tile code is called inside the fused pass: for a few hundred particles at a
// time, from several threads at once, while these particles are in cache. Beam code is called for the whole beam while
// all threads stand still (programmable.h). Both get the place they stand at; an element emits them as a code_call,
// which a program keeps as it is.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "beam/reference.h"
#include "beam/text.h"

namespace betatron::elements {

/// Where code is called: a slice of an element, in a turn.
struct code_place {
  const beam::reference& entrance;  ///< the reference particle in front of the slice ...
  const beam::reference& exit;      ///< ... and behind it: the coordinates there are relative to it
  double length;                    ///< of the path through the slice [m]
  int slice, slices;                ///< counted from 0, in the direction of the line
  std::int64_t turn = 0;
  std::int32_t element = 0;            ///< position in the line ...
  std::string_view name{};             ///< ... and its name
  std::span<const double> settings{};  ///< the user's numbers
};

/// Some particles. F is float or double.
template <class F>
struct code_tile {
  F* z[6];                  ///< x, px, y, py, t, pt
  const F* weight;          ///< of `count` particles
  const std::uint64_t* id;  ///< of `count` particles
  std::size_t count;

  /// Entries of z that may be read and written, >= count: those behind the particles fill the last vector. They are
  /// finite, and must stay so.
  std::size_t padded;

  /// Of `count` particles, 0 at the call. A particle whose entry is set is lost there, with the coordinates that it
  /// then has, and for the reason outside_domain. One with a coordinate that is not finite is lost in any case.
  std::uint8_t* outside;
};

/// Code that is called tile by tile. Immutable and shared: what it holds must allow calls from several threads at
/// once. It must not throw: particles would be left at different places.
struct tile_code {
  template <class F>
  using push_function = std::function<void(const code_place&, const code_tile<F>&)>;
  template <class F>
  using pull_function =
      std::function<void(const code_place&, const code_tile<F>& entrance, F* const lambda[6])>;

  std::string name{};  ///< as in messages

  /// Takes particles through the slice, in place. Without push_single, particles of single precision are pushed in
  /// double.
  push_function<double> push_double{};
  push_function<float> push_single{};

  /// The vector-Jacobian product: turns lambda, the derivative of a number by the coordinates at the exit, into that
  /// by those at the entrance, which it is given and leaves as they are. Empty: the code has no derivative.
  pull_function<double> pull_double{};
  pull_function<float> pull_single{};

  /// Steps of central differences of the coordinates that give the derivative where there is no pull; 0: none.
  std::array<double, 6> steps{};

  double cost = 10;  ///< time per particle, about, in units of that of a quadrupole (1 ns)

  /// What tracking ends with (stop_for) where particles are marked as outside, with all of them in front of the slice;
  /// empty: those are lost. It follows the number of these particles.
  std::string stops{};

  bool has_derivative() const {
    return pull_double != nullptr || (push_double != nullptr && steps[0] > 0);
  }
};

/// Throws std::runtime_error: `outside` of `all` particles are marked by code that then stops. `element`: its
/// description.
[[noreturn]] inline void stop_for(const tile_code& code, const code_place& at,
                                  const std::string& element, std::size_t outside,
                                  std::size_t all) {
  throw std::runtime_error(element + " at s = " + beam::number_text(at.entrance.s) + " m, turn " +
                           std::to_string(at.turn) + ": " + std::to_string(outside) + " of " +
                           std::to_string(all) + " particles " + code.stops);
}

struct beam_code;  // programmable.h

/// What an element emits for one slice: a call of tile code, or of beam code.
struct code_call {
  std::shared_ptr<const tile_code> tiles{};
  std::shared_ptr<const beam_code> beam{};
  beam::reference entrance{}, exit{};
  double length = 0;
  int slice = 0, slices = 1;
  std::vector<double> settings{};
  bool inverse = false;  ///< beam code: undo it
  std::string name{};    ///< of the element

  code_place at(std::int64_t turn, std::int32_t element) const {
    return {entrance, exit, length, slice, slices, turn, element, name, settings};
  }
};

}  // namespace betatron::elements
