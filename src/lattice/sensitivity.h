// lattice/sensitivity.h: a line as the operations of the reverse pass, with the derivatives of their coefficients.
//
// The reverse pass takes particles from the end of the line to its start through the inverse maps. What a parameter
// does there follows from the derivative of the coefficients of those maps, which are smooth functions of it and are
// differentiated numerically, in double: by central differences of order 8, with the step at which each coefficient
// is most accurate (about 1e-13 of its size; second derivatives about 1e-12), or of order 2 where they are linear to
// rounding. A parameter may also move the reference particle (an RF voltage moves its energy), on which the
// coefficients of everything behind depend; that is carried from slice to slice by the chain rule, so that only
// slices know their coefficients and all else is a recursion over two numbers.
//
// Source for the formulas of differences and their errors: B. Fornberg, Math. Comp. 51 (1988) 699.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "beam/reference.h"
#include "lattice/line.h"
#include "lattice/program.h"
#include "numerics/dual.h"

namespace betatron::lattice {

/// A number and its rate along a direction.
using rated = numerics::dual<double, 1>;

/// A number that derivatives are taken with respect to, of one element wherever it stands in the line.
struct knob {
  std::shared_ptr<const element> of;
  std::string parameter;  ///< one that holds a number or a list of numbers
  int entry = -1;         ///< of a list, counted from 0; -1 for a number
};

/// The parameter, for example "k1" or "knl[2]".
std::string name_of(const knob& k);

/// All knobs of an element: each of its numbers and entries of lists, and its displacements; not the openings of
/// apertures and pipes, on which what remains in the beam does not depend smoothly. With a name, those of this
/// parameter.
std::vector<knob> knobs_of(const std::shared_ptr<const element>& e,
                           std::optional<std::string_view> parameter = {});

/// Throws std::invalid_argument naming the element unless the knob exists, and std::out_of_range for a parameter
/// that its kind does not have.
void check(const knob& k);

/// An operation of the reverse pass.
struct reverse_operation {
  // code < operation::map_count: the inverse map. operation::refresh, record, mark and radiate as there; and
  static constexpr int matrix =
      1100;  ///< z -> M z + d of the user's, whose M need not be symplectic: coefficients M (36),
             ///< d (6), M^-1 (36), 1 or 0: whether M^-1 exists
  static constexpr int pushed =
      1200;  ///< + code of a map without inverse: coefficients of that map, 1/beta0 and 1/(beta0
             ///< gamma0)^2 in front of it; the first of its directions has no tangents
  static constexpr int call =
      operation::call;  ///< tile code, which has a pull but no inverse; `coefficients`: as in
                        ///< the forward program

  int code;
  std::uint32_t coefficients;  ///< position in the pool, or the number of the record
  std::uint32_t forward;       ///< position in the forward program of the operation it undoes
  std::uint32_t first_direction = 0, directions = 0;
  bool from_front =
      false;  ///< cannot be undone: needs the coordinates in front of what it stands for
};

/// A direction in which the coefficients of an operation vary.
struct reverse_direction {
  std::uint32_t
      tangents;  ///< position in `tangents`: of the coefficients, then of 1/beta0 and 1/(beta0 gamma0)^2
  std::uint32_t energy;  ///< position in the pool of coefficients of these two
  bool moves_energy;     ///< whether the tangents of these two differ from 0
  std::uint32_t sum;     ///< where what the particles contribute is added
};

/// A slice and how the reference particle behind it depends on what is in front of it and on knobs.
struct slice_sensitivity {
  struct moved {
    double kinetic = 0, time = 0;  ///< derivatives of those behind
  };
  struct varied {
    std::size_t knob;
    std::uint32_t sum;
    moved behind;
  };
  std::int32_t element;
  std::vector<varied> knobs{};
  std::int64_t kinetic_sum = -1,
               time_sum = -1;  ///< of the reference in front; -1: coefficients do not depend on it
  moved by_kinetic{1, 0}, by_time{0, 1};
};

/// A place where the reverse pass stops between operations, for something that acts on the whole beam.
struct stop {
  std::uint32_t forward;   ///< the operation of the forward program behind it
  std::uint32_t backward;  ///< the first of the reverse pass that undoes one in front of it
  std::size_t slices;      ///< in front of it
  beam::reference ref;
};

/// How a sensitivity changes along a direction: the rates of what has the same name there.
struct sensitivity_rates {
  struct of_slice {
    slice_sensitivity::moved by_kinetic{}, by_time{};
    std::vector<slice_sensitivity::moved> knobs{};  ///< of slice_sensitivity::varied::behind
  };
  std::vector<double> forward{};  ///< of the coefficients of the program
  std::array<double, 2> entrance_energy{}, exit_energy{};
  std::vector<double> kinetic{};  ///< of the reference at each record
  std::vector<double> coefficients{}, tangents{};
  std::vector<of_slice> slices{};
  double fastest = 0;  ///< largest rate of a variable over the length on which things vary with it
};

struct sensitivity {
  program forward;                            ///< with records; what the reverse pass undoes
  std::vector<reverse_operation> backward{};  ///< in the order in which they are run
  std::vector<double> coefficients{};         ///< of the reverse pass
  std::vector<double> tangents{};
  std::vector<reverse_direction> directions{};
  std::vector<slice_sensitivity> slices{};  ///< in the order of the line
  std::vector<stop> stops{};                ///< in the order of the beam
  std::array<double, 2> exit_energy{};      ///< 1/beta0, 1/(beta0 gamma0)^2 at the end
  std::uint32_t sums = 0;                   ///< how many there are
  double length = 0;                        ///< of the way of the reference particle
  std::string
      no_way_back{};  ///< what cannot be undone, so that states must be kept; empty: nothing
  sensitivity_rates rates{};  ///< empty unless the options have a direction

  /// Derivatives with respect to the knobs, and to the kinetic energy over m c^2 at the start (if the program was
  /// made for it), from what particles have contributed to the sums. by_kinetic: what a loss depends directly on
  /// that of the reference at each record; empty for nothing. at_stops: the same at each stop.
  struct result {
    std::vector<double> knobs;
    double kinetic;
  };
  result collect(std::span<const double> contributions, std::span<const double> by_kinetic,
                 std::span<const double> at_stops, std::size_t knob_count) const;

  /// The same with rates along the direction of the options, of a line without stops.
  struct second_order_result {
    std::vector<rated> knobs;
    rated kinetic;
  };
  second_order_result collect(std::span<const rated> contributions,
                              std::span<const rated> by_kinetic, std::size_t knob_count) const;
};

struct sensitivity_options {
  std::span<const knob> knobs{};
  bool reference_energy = false;
  std::span<const std::uint8_t> recorded{};  ///< one flag per element, or empty: record behind it
  bool record_start = false, record_end = false;
  std::span<const position> stops{};  ///< ascending

  /// A direction, one number per knob, and that of the kinetic energy over m c^2 at the start
  /// (which needs reference_energy): rates along it are wanted. Empty: none.
  std::span<const double> along{};
  double along_kinetic = 0;

  /// Synchrotron radiation and the boundary of the bucket, as in compile_options.
  std::optional<elements::radiation_model> radiation{};
  elements::longitudinal_boundary boundary = elements::longitudinal_boundary::open;
  double bucket_length = 0;
};

/// How the length of an element and the curvature of the reference orbit in it change with a knob of it.
struct geometry_slope {
  double length = 0, curvature = 0;
};
geometry_slope geometry_of(const knob& k);

/// One flag per element: its length is one of the knobs.
std::vector<std::uint8_t> varied_lengths(const line& l, std::span<const knob> knobs);

/// The derivative of a smooth function of a line along a knob, from values of the knob within its allowed range.
double derivative_along(const knob& k, const line& l,
                        const std::function<double(const line&)>& function);

/// Throws std::invalid_argument naming the element that cannot be tracked, has no derivative with respect to a
/// parameter, or knobs of elements that are not in the line; and as compile() for radiation and boundary.
sensitivity differentiate(const line& l, const beam::reference& start,
                          const sensitivity_options& options);

/// The same forward, for forward mode: derivatives of all coefficients of sensitivity::forward along knob number
/// `which` of the options (-1: the kinetic energy over m c^2 of the reference at the start), including what the
/// reference particle carries along the line.
struct forward_tangents {
  std::vector<double> coefficients;       ///< as in the pool of the program
  std::array<double, 2> entrance_energy;  ///< of program::entrance_energy
  std::vector<double> kinetic;            ///< of the reference at each record
};
forward_tangents differentiate_forward(const line& l, const beam::reference& start,
                                       const sensitivity_options& options, std::ptrdiff_t which);

/// Piece `index` of `count` equal ones of an element, as a function of what may be varied: a knob of the element, or
/// the energy or the time of the reference particle `front` at its entrance.
struct varied_piece {
  const element& of;
  int index, count;
  beam::reference front;
  enum class variable { knob, kinetic, time } by = variable::kinetic;
  const knob* turned = nullptr;  ///< for variable::knob
  bool clock = false;            ///< maps of the line follow the clock
};

/// How the centroid behind a piece, the derivative of the map around it, and the reference there change.
struct piece_tangent {
  std::array<double, 6> orbit{};
  elements::matrix6 matrix{};
  double kinetic = 0, time = 0;
};

/// For a centroid that is at `centroid` in front. Throws std::invalid_argument naming the element and the parameter
/// that there is no derivative for.
piece_tangent differentiate(const varied_piece& p, const std::array<double, 6>& centroid);

/// Tells whether pieces of one element are the same function of a variable: those with the same coefficients somewhat
/// beside its value, and the same matrix at the value, are.
class piece_probe {
 public:
  /// For pieces that differ from this one by their index.
  explicit piece_probe(const varied_piece& p);
  /// The coefficients of a piece there; false if it cannot be tracked there.
  bool read(const varied_piece& p, std::vector<double>& signature);

 private:
  element beside_;
  double at_;
};

}  // namespace betatron::lattice
