// effect.h: a collective effect: what the beam does to itself, as kicks between stretches of lattice.
//
// An effect is a value: a name, functions, and where it acts. State (a grid, a Green's function, the wake of earlier
// turns) lives behind the functions, typically in a shared_ptr that they hold; copies of an effect share it.
//
// Between kicks the beam goes through the lattice in one fused pass. An element of length L gets n equally spaced
// kicks, each for the path L/n. With order 1 a kick stands at the entrance of its piece (kick, then map: the error is
// of first order in L/n); with order 2 in the middle (half map, kick, half map: second order). Effects at the same
// place act in the order in which they are given.
//
// A kick that depends on x, y, t only and leaves them unchanged is undone exactly, to rounding, by the same kick with
// the length negated: backward tracking needs `reversible`.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "beam/bunch.h"
#include "lattice/program.h"
#include "tracking/hook.h"

namespace betatron::tracking {

/// Where a kick stands and what it stands for.
struct kick_place {
  beam::reference ref;      ///< the reference particle there; also beam::bunch::ref
  double length = 0;        ///< of the path that the kick stands for [m]; negative: undo it
  double curvature = 0;     ///< of the reference orbit in the element [1/m], see lattice::curvature
  std::int64_t turn = 0;    ///< number of the turn
  std::size_t element = 0;  ///< position in the line
  double from = 0,
         to = 1;  ///< the piece of the element that the kick stands for, as fractions of its length
  const lattice::line* line = nullptr;
  unsigned threads = 1;  ///< at most; the result must not depend on it
};

/// Derivatives of a loss by the coordinates of a beam, a column each, in the precision of the beam.
struct covector {
  std::variant<std::array<float*, 6>, std::array<double*, 6>> columns{};

  template <class F>
  const std::array<F*, 6>& of() const {
    return std::get<std::array<F*, 6>>(columns);
  }
};

/// Derivatives of a loss by what a kick depends on besides the coordinates.
struct kick_slopes {
  double kinetic = 0;    ///< kinetic energy over m c^2 of the reference particle there
  double length = 0;     ///< kick_place::length
  double curvature = 0;  ///< kick_place::curvature
  double charge = 0;     ///< the logarithm of the charge of the beam
  /// For what depends on the line in other ways: a number that has the derivative of the loss by lengths and curvatures of
  /// elements, those of kick_place held. Empty: nothing does.
  std::function<double(const lattice::line&)> by_line{};
};

/// What a number that depends on the matrix of a linear kick depends on through it.
struct envelope_kick_pull {
  beam::matrix6 covariance{};  ///< derivatives with respect to each entry as if it were on its own
  double charge = 0;           ///< by the charge of the beam [1/C]
  double strength =
      0;  ///< by the number that says how strong the effect is (a current [1/A]), if it has one
  double kinetic = 0;  ///< by the kinetic energy over m c^2 of the reference
  double length = 0;   ///< by the length of the path that the kick stands for [1/m]
};

/// A field on a grid that an effect keeps.
struct effect_field {
  std::variant<float*, double*> data;
  std::array<std::size_t, 3> nodes{}, strides{};  ///< along x, y, z; strides in numbers
  double unit = 1;                                ///< what 1 stands for, in SI units
  std::array<double, 3> origin{};                 ///< place of the first node [m]
  std::array<double, 3> spacing{};                ///< of nodes [m]
  std::shared_ptr<void> owner{};                  ///< of the memory
};

struct effect {
  std::string name{};  ///< as in messages

  /// Changes the momenta px, py, pt of the beam. What it throws ends tracking with all particles at the same place.
  std::function<void(beam::bunch&, const kick_place&)> kick{};

  /// Called before tracking begins, to check what can be checked and to forget an earlier run. May be empty.
  std::function<void(const lattice::line&, const beam::bunch&, lattice::direction)> begin{};

  /// What is to be said behind a run, that the effect was used beyond what it is known for for example; no text: nothing.
  /// May be empty.
  std::function<std::string()> remark{};

  /// Particles that have met a wall, in ascending order: tracking loses them in front of the kick. May be empty.
  std::function<std::vector<std::size_t>(const beam::bunch&, unsigned threads)> met_wall{};

  /// For envelope tracking: the linear kick, as a matrix around the centroid, of a beam with these first and second
  /// moments and this charge [C]. Empty: the effect has none.
  std::function<beam::matrix6(const std::array<double, 6>& mean, const beam::matrix6& covariance,
                              double charge, const kick_place&)>
      envelope_kick{};

  /// For gradients, the adjoint of the kick: beam and covector, given behind the kick, are put in front of it. Empty: the
  /// effect has no derivative.
  std::function<kick_slopes(beam::bunch&, const covector&, const kick_place&)> pull{};
  std::string no_pull{};  ///< why it has none, for messages

  /// Its derivatives: given those of a number by the entries of the matrix, of which only momenta by positions count
  /// (others are 0), those by what the matrix depends on. It must not depend on the mean. Empty: envelopes with the
  /// effect cannot be differentiated.
  std::function<envelope_kick_pull(const std::array<double, 6>& mean,
                                   const beam::matrix6& covariance, double charge,
                                   const kick_place&, const beam::matrix6& by_matrix)>
      envelope_pull{};

  /// Fields of the last kick, for hooks: their names, and one of them; none before the first kick.
  std::vector<std::string> field_names{};
  std::function<std::optional<effect_field>(std::string_view)> field{};

  int order = 1;  ///< of the splitting: 1 or 2
  double spacing =
      0;  ///< kicks are at most so far apart [m], at ends (order 2: middles) of equal groups or parts
          ///< of slices; 0: one kick in every slice
  bool reversible = false;  ///< the kick with the negative length undoes it

  /// One flag per element, or empty: all elements with length. A thin element that is flagged gets one kick of
  /// length 0 in front of it, unless the effect `needs_length`.
  std::vector<std::uint8_t> at{};
  bool needs_length = false;  ///< kicks of length 0 do nothing
};

/// A stretch of lattice with what happens in front of it: hooks are called, then the beam is kicked.
struct kicked_stretch {
  struct hook_call {
    std::size_t hook;  ///< position in the list
    std::size_t element;
    int slice;
  };
  struct kick {
    std::size_t effect;  ///< position in the list
    double length, from, to;
    std::size_t element;
    int slice;  ///< that the kick stands in
  };

  std::vector<kick> kicks;
  lattice::position first, last;
  std::vector<hook_call> hooks{};
};

/// Cuts the line at the kicks of all effects, where an element with kicks begins, and where hooks are called. A slice
/// of code (elements::programmable) is not cut: it gets at most one kick of each effect, at its entrance. Elements of length
/// 0 that are flagged as `varied` (empty: none are) get the kicks that a little length brings, of length 0: derivatives
/// by that length pass through them. Throws std::invalid_argument naming the effect and the value where order, spacing or
/// flags are out of range.
std::vector<kicked_stretch> cut_at_kicks(const lattice::line& l, std::span<const effect> effects,
                                         std::span<const hook> hooks = {},
                                         std::span<const std::uint8_t> varied = {});

/// The place of a hook, but for the turn and effects.
hook_place place_of(const lattice::line& l, const hook& h, const kicked_stretch::hook_call& c);

/// The place of a kick, to be completed with reference, turn and threads.
kick_place place_of(const lattice::line& l, const kicked_stretch::kick& k);

}  // namespace betatron::tracking
