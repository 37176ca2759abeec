// bunch.h: a beam: particles, the reference particle they are relative to, and those that were
// lost.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "beam/columns.h"
#include "beam/distribution.h"
#include "beam/loss.h"
#include "beam/moments.h"
#include "beam/reference.h"

namespace betatron::beam {

/// Of coordinates and weights. Reference particle, moments and charge are double in any case.
enum class precision { single, double_ };

/// "single" or "double".
std::string_view name_of(precision p);

/// Arrays that a bunch is made from, all of one length. Without weights every particle weighs 1 (is
/// one real particle); without ids they are 0, 1, 2, ...
template <class F>
struct bunch_arrays {
  using id_type = typename columns<F>::id_type;

  std::array<std::span<F>, 6> z;  // x, px, y, py, t, pt
  std::optional<std::span<F>> weight = std::nullopt;
  std::optional<std::span<id_type>> id = std::nullopt;
  std::optional<std::array<std::span<F>, 3>> spin = std::nullopt;  // sx, sy, sz
};

/// Consecutive particles.
struct particle_range {
  std::size_t first, count;
};

/// The beam. Owns its columns, or works on columns that belong to somebody else (`borrow`). A copy
/// always has columns of its own. Zero particles and one particle are beams like any other.
class bunch {
 public:
  reference ref;
  std::vector<lost_particle> lost;  // in order of loss

  /// n particles on the reference orbit (all coordinates 0) with weight 1 and ids 0 ... n-1.
  bunch(reference ref, std::size_t n, beam::precision p = beam::precision::double_);

  /// n particles drawn from a distribution (see `generate`), weight 1 and ids 0 ... n-1.
  static bunch sample(reference ref, const distribution& from, std::size_t n, std::uint64_t seed,
                      beam::precision p = beam::precision::double_, unsigned threads = 1);

  /// Particles from arrays, copied; F (float or double) decides the precision. Throws
  /// std::invalid_argument naming the arrays where lengths differ, and as `check_finite` and
  /// `check_spin`.
  template <class F>
  static bunch copy_of(reference ref, const bunch_arrays<const F>& arrays);

  /// The same without copying: the bunch reads and writes the given arrays for as long as it (or a
  /// holder of `memory()`) lives, and keeps `keep_alive` until then. Weights and ids that are not
  /// given are its own. When particles are lost, the first size() entries of the arrays are the
  /// beam and the rest is unused.
  template <class F>
  static bunch borrow(reference ref, const bunch_arrays<F>& arrays,
                      std::shared_ptr<void> keep_alive);

  bunch(const bunch& other);
  bunch(bunch&& other) noexcept;
  bunch& operator=(const bunch& other);
  bunch& operator=(bunch&& other) noexcept;
  ~bunch() = default;

  /// Particles in the beam; lost ones do not count.
  std::size_t size() const;
  beam::precision precision() const;

  /// f(columns<float>) or f(columns<double>), whichever the precision is; read-only columns if the
  /// bunch is const. Returns what f returns. Columns are valid until the bunch is assigned to,
  /// moved or destroyed, and longer if somebody holds `memory()`.
  template <class Function>
  decltype(auto) visit(Function&& f) {
    return std::visit([&](auto& c) -> decltype(auto) { return f(std::as_const(c)); }, columns_);
  }
  template <class Function>
  decltype(auto) visit(Function&& f) const {
    return std::visit(
        [&](const auto& c) -> decltype(auto) {
          using value = typename std::remove_cvref_t<decltype(c)>::value_type;
          return f(columns<const value>(c));
        },
        columns_);
  }

  /// Whoever holds this keeps the columns in memory.
  const std::shared_ptr<void>& memory() const { return memory_; }

  /// Whether the particles have spins. A beam has none until it is given some: by arrays, or by one
  /// of the next three functions, which replace spins that it has already.
  bool has_spin() const;

  /// The same spin for all particles. Throws std::invalid_argument unless `direction` is a unit
  /// vector within spin_tolerance.
  void set_spin(const std::array<double, 3>& direction);

  /// Spins from arrays sx, sy, sz of size() numbers each, copied. Throws std::invalid_argument where
  /// lengths differ, and as `check_spin`; the beam is then as it was.
  void set_spin(const std::array<std::span<const double>, 3>& spins);

  /// Spins drawn with a mean: see `generate_spins`, which says what is thrown.
  void sample_spin(const std::array<double, 3>& polarization, std::uint64_t seed,
                   unsigned threads = 1);

  /// Charge of the beam [C], with the sign of the species: e q sum(weight), the sum compensated.
  double charge() const;

  /// Scale all weights so that |charge()| is `coulomb`. Throws std::invalid_argument unless it is
  /// finite and >= 0, and where no particle has a weight that could carry it.
  void set_charge(double coulomb);

  /// Moments of all particles; the same bits for any number of threads (0: one per hardware
  /// thread).
  beam::moments moments(unsigned threads = 1) const;

  /// Throws std::invalid_argument naming the first column, index and value that is not finite, or
  /// the first weight that is negative.
  void check_finite() const;

  /// Throws std::invalid_argument naming the first spin that is not a unit vector within
  /// spin_tolerance. Fine without spins.
  void check_spin() const;

  /// Where and why particle `index` (of the present order) was lost.
  struct loss {
    std::size_t index;
    double s;
    std::int64_t turn;
    std::int64_t element;
    loss_reason reason;
  };

  /// Move particles from the beam to `lost`, with their present coordinates. The order of the
  /// others does not change. Throws std::invalid_argument unless indices are in range and strictly
  /// ascending.
  void remove(std::span<const loss> losses);

  /// Keep these ranges, in their order, and forget all other particles: for kernels that have
  /// recorded losses themselves. Throws std::invalid_argument unless ranges are in bounds,
  /// ascending and disjoint.
  void keep(std::span<const particle_range> ranges);

 private:
  template <class F>
  bunch(reference ref, const columns<F>& c, std::shared_ptr<void> memory);

  void allocate_spin();

  std::variant<columns<float>, columns<double>> columns_;
  std::shared_ptr<void> memory_;
};

extern template bunch bunch::copy_of(reference, const bunch_arrays<const float>&);
extern template bunch bunch::copy_of(reference, const bunch_arrays<const double>&);
extern template bunch bunch::borrow(reference, const bunch_arrays<float>&, std::shared_ptr<void>);
extern template bunch bunch::borrow(reference, const bunch_arrays<double>&, std::shared_ptr<void>);

}  // namespace betatron::beam
