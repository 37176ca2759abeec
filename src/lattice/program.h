// lattice/program.h: a stretch of lattice as the list of operations that executors run.
//
// Compiling reads the parameters of the elements, moves the reference particle along, and turns each slice into
// maps with ready coefficients. An executor then takes a tile of particles through all operations while it
// stays in cache; it knows operation codes and coefficients, not elements.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <variant>
#include <vector>

#include "beam/reference.h"
#include "elements/kinds.h"
#include "lattice/line.h"

namespace betatron::lattice {

struct operation {
  // code < map_count: a map. The others:
  static constexpr int map_count = static_cast<int>(elements::all_maps::size);
  static constexpr int refresh =
      1000;  // recompute the energy columns: coefficients 1/beta0, 1/(beta0 gamma0)^2
  static constexpr int record =
      1001;  // take the moments of the beam; `coefficients` is the number of the record
  static constexpr int observe =
      1002;  // copy chosen particles; `coefficients` is the number of the observation
  static constexpr int mark = 1003;     // elements::radiation_mark: keep the momenta
  static constexpr int radiate = 1004;  // elements::radiation_loss
  static constexpr int call = 1005;     // code of others; `coefficients` is the number of the call

  int code;
  std::uint32_t coefficients;  ///< position of the first coefficient in the pool
  std::int32_t element;        ///< position in the line
  double s;                    ///< path length behind the slice [m]
};

/// A place where moments are taken or particles observed: behind slice `slice` of element `element`.
struct record_point {
  std::int32_t element;
  std::int32_t slice;
  beam::reference ref;
};

struct program {
  std::vector<operation> operations{};
  std::vector<double> coefficients{};
  std::vector<record_point> records{};
  std::vector<record_point> observations{};
  std::vector<elements::code_call> calls{};
  std::array<double, 2> entrance_energy{};  ///< 1/beta0, 1/(beta0 gamma0)^2 at the start
  bool spin = false;                        ///< maps turn the spins, of this anomaly
  double anomaly = 0;
  bool radiation = false;        ///< there are the operations mark and radiate ...
  std::uint64_t noise_seed = 0;  ///< ... and their fluctuations have this seed

  /// The coefficients in single precision.
  std::vector<float> single_coefficients() const {
    return {coefficients.begin(), coefficients.end()};
  }
};

/// What the operations cost per particle, in units of a map.
double work_of(std::span<const operation> operations, const program& p);

enum class direction { forward, backward };

struct compile_options {
  direction way = direction::forward;
  std::span<const std::uint8_t> recorded{};  ///< one flag per element, or empty: record behind it
  bool record_slices = false;                ///< also behind each slice of recorded elements
  std::span<const std::uint8_t>
      observed{};  ///< one flag per element, or empty: observe particles behind it

  /// Acts behind every slice, before it is recorded. Others than open need bucket_length > 0 [m] and the forward
  /// direction.
  elements::longitudinal_boundary boundary = elements::longitudinal_boundary::open;
  double bucket_length = 0;

  /// Fields turn the spins, see elements/spin.h; closed solutions are then cut into the `steps` of their element.
  bool spin = false;

  /// Synchrotron radiation of all fields that have a length, see elements/radiation.h; only forward.
  std::optional<elements::radiation_model> radiation{};
};

/// A place in a line: `part` of `parts` equal pieces of the element behind its entrance.
struct position {
  std::size_t element = 0;
  int part = 0;
  int parts = 1;  ///< a multiple of the slices of the element

  friend bool operator==(const position&, const position&) = default;
};

/// What is tracked in one go: piece `index` of `count` equal ones of an element.
struct piece {
  std::size_t element;
  int index, count;
  int slice;        ///< that it belongs to, counted from the end that is passed first
  bool ends_slice;  ///< nothing of the slice is left behind it
};

/// From `first` to `last`, which is not before it, in the order in which the beam passes them. Elements are tracked
/// slice by slice; only a slice that is cut by one of the ends is passed in pieces.
std::vector<piece> pieces(const line& l, const position& first, const position& last,
                          direction way);

/// Operations of elements [first, last) of the line; ref is moved from one end to the other (backward: from the
/// exit of last - 1 to the entrance of first). Throws std::invalid_argument naming the element whose parameters
/// cannot be tracked, and for a boundary that needs what the options do not have. With radiation it
/// throws unless the order is 1 to 3 and the way forward. With spins it also throws
/// if the species has no anomaly, and naming an element whose effect on the spin is not known.
program compile(const line& l, std::size_t first, std::size_t last, beam::reference& ref,
                const compile_options& options);

/// The same from one position to another. A boundary acts, and records are taken, at the ends of slices.
program compile(const line& l, const position& first, const position& last, beam::reference& ref,
                const compile_options& options);

/// Takes records and observations at the end of a program, those behind its last map, off it into a program of
/// their own.
program split_off_marks(program& p, const beam::reference& end);

/// Operations of one of the `count` slices of an element, whose parameters may be outside their allowed ranges.
struct slice_request {
  int index = 0, count = 1;
  bool inverse = false;  ///< those that undo it, from the exit to the entrance
  bool keep_structure = false, keep_frames = false;      ///< see elements::slice
  const elements::radiation_model* radiation = nullptr;  ///< what it radiates, if anything
};

/// The operations; ref, at the entrance, is moved to the exit in either case. A slice that radiates has no inverse: the
/// operations mark and radiate then stand where a reverse pass meets them. Throws std::invalid_argument naming
/// the element that has no inverse, and std::domain_error where the reference particle cannot pass.
program compile_slice(const element& e, const slice_request& which, beam::reference& ref);

/// What stands behind a slice for the sake of a boundary; none if it is open.
program compile_boundary(elements::longitudinal_boundary boundary, double bucket_length,
                         const beam::reference& ref);

/// Throws std::invalid_argument unless a boundary has the bucket_length that it needs.
void check_boundary(elements::longitudinal_boundary boundary, double bucket_length);

/// Throws std::invalid_argument unless the order is 1 to 3.
void check_radiation(const elements::radiation_model& model);

/// A particle and the derivative of its coordinates with respect to those at the start.
struct orbit_map {
  std::array<double, 6> orbit;
  elements::matrix6 matrix;
};

/// Takes the particle `start` through elements [first, last) in their models, with its derivatives (forward mode,
/// exact to rounding); ref is moved to the end. Apertures are ignored. start = 0 gives the linear map around the
/// reference orbit.
orbit_map derivative(const line& l, std::size_t first, std::size_t last, beam::reference& ref,
                     const std::array<double, 6>& start = {});

/// The same through one call of code: by the pull of tile code, or by differences if it states their steps. Throws
/// std::domain_error where there is neither, and for beam code.
orbit_map derivative(const elements::code_call& call, const std::array<double, 6>& start);

/// The same for piece `index` of `count` equal ones of one element; `count` is slice_count(e) or a multiple of it.
orbit_map derivative(const element& e, int index, int count, beam::reference& ref,
                     const std::array<double, 6>& start);

namespace detail {
template <class List>
struct variant_of;
template <template <class> class... Maps>
struct variant_of<elements::map_list<Maps...>> {
  using type = std::variant<Maps<double>...>;
};
}  // namespace detail

/// One of all maps.
using any_map = detail::variant_of<elements::all_maps>::type;

/// Receives a map, and 1/beta0 and 1/(beta0 gamma0)^2 of the reference particle in front of it.
using map_visitor = std::function<void(const any_map&, const std::array<double, 2>&)>;

/// Passes on the maps of elements [first, last) in their models, in the order of the beam; apertures are left out, ref
/// is moved to the end. Throws as compile().
void visit_maps(const line& l, std::size_t first, std::size_t last, beam::reference& ref,
                const map_visitor& visit);

/// The same for piece `index` of `count` equal ones of one element.
void visit_maps(const element& e, int index, int count, beam::reference& ref,
                const map_visitor& visit);

/// The same with the spin: at the end it is `rotation` S for a particle that starts at `start`, and to first order
/// `rotation` exp((slopes z) x) S for one that starts z beside it.
struct spin_orbit_map {
  std::array<double, 6> orbit;
  elements::matrix6 matrix;
  std::array<double, 9> rotation;  ///< row-major
  std::array<double, 18> slopes;   ///< row-major, 3 x 6
};
spin_orbit_map spin_derivative(const line& l, beam::reference& ref,
                               const std::array<double, 6>& start = {});

}  // namespace betatron::lattice
