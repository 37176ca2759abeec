// lattice/program.h: a stretch of lattice as the list of operations that executors run.
//
// Compiling reads the parameters of the elements, moves the reference particle along, and turns each slice into
// maps with ready coefficients. An executor then takes a tile of particles through all operations while it
// stays in cache; it knows operation codes and coefficients, not elements.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "beam/reference.h"
#include "elements/kinds.h"
#include "lattice/line.h"

namespace betatron::lattice {

struct operation {
  // code < all_maps::size: a map. The others:
  static constexpr int refresh =
      1000;  // recompute the energy columns: coefficients 1/beta0, 1/(beta0 gamma0)^2
  static constexpr int record =
      1001;  // take the moments of the beam; `coefficients` is the number of the record
  static constexpr int observe =
      1002;  // copy chosen particles; `coefficients` is the number of the observation
  static constexpr int mark = 1003;     // elements::radiation_mark: keep the momenta
  static constexpr int radiate = 1004;  // elements::radiation_loss

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

/// Operations of elements [first, last) of the line; ref is moved from one end to the other (backward: from the
/// exit of last - 1 to the entrance of first). Throws std::invalid_argument naming the element whose parameters
/// cannot be tracked, and for a boundary that needs what the options do not have. With radiation it
/// throws unless the order is 1 to 3 and the way forward. With spins it also throws
/// if the species has no anomaly, and naming an element whose effect on the spin is not known.
program compile(const line& l, std::size_t first, std::size_t last, beam::reference& ref,
                const compile_options& options);

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

/// The same for slice `index` of slice_count(e) of one element.
orbit_map derivative(const element& e, int index, beam::reference& ref,
                     const std::array<double, 6>& start);

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
