// company.h: the particles that are still in the beam, where it stops for something that acts on all of it.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <numeric>
#include <span>
#include <vector>

#include "beam/bunch.h"
#include "tracking/section.h"

namespace betatron::tracking {

/// Particles that are still in the beam, side by side in columns of which the first `size` entries are used.
template <class F>
class company {
 public:
  /// All of the beam; z: where coordinates are kept.
  company(const beam::reference& ref, const beam::columns<const F>& beam,
          const std::array<F*, 6>& z)
      : ref_(ref), beam_(beam), z_(z), size_(beam.size) {}

  std::size_t size() const { return size_; }
  const std::array<F*, 6>& coordinates() const { return z_; }
  const F* weights() const { return weight_.empty() ? beam_.weight : weight_.data(); }

  /// As the kernels see them; `z` as it is.
  beam::columns<const F> columns() const {
    return {{z_[0], z_[1], z_[2], z_[3], z_[4], z_[5]}, weights(), ids(), size_};
  }

  /// As collective effects see them; valid until the next call of remove or insert.
  beam::bunch& bunch() {
    if (bunch_) return *bunch_;
    // effects do not write weights and ids
    auto* weight = const_cast<F*>(weights());
    auto* id = const_cast<std::uint64_t*>(ids());
    beam::bunch_arrays<F> arrays{};
    for (std::size_t c = 0; c < 6; ++c) arrays.z[c] = {z_[c], size_};
    arrays.weight = {weight, size_};
    arrays.id = {id, size_};
    bunch_ = std::make_shared<beam::bunch>(beam::bunch::borrow(ref_, arrays, nullptr));
    return *bunch_;
  }

  /// Sets casualty::of.
  void identify(std::vector<casualty<F>>& dead) const {
    for (casualty<F>& d : dead) d.of = origin_.empty() ? d.index : origin_[d.index];
  }

  /// Takes particles out, from other columns too.
  void remove(std::span<const casualty<F>> dead, const std::array<F*, 6>& others = {}) {
    if (dead.empty()) return;
    expand_origin();
    close_ranks(origin_.data(), dead);
    for (std::size_t c = 0; c < 6; ++c) {
      close_ranks(z_[c], dead);
      if (others[c]) close_ranks(others[c], dead);
    }
    size_ -= dead.size();
    origin_.resize(size_);
    collect();
  }

  /// Puts them back, with the coordinates they had when they were lost, and 0 in the other columns.
  void insert(std::span<const casualty<F>> dead, const std::array<F*, 6>& others = {}) {
    if (dead.empty()) return;
    size_ += dead.size();
    origin_.resize(size_);
    open_ranks(origin_.data(), dead,
               [](const casualty<F>& d) { return static_cast<std::uint64_t>(d.of); });
    for (std::size_t c = 0; c < 6; ++c) {
      open_ranks(z_[c], dead, [c](const casualty<F>& d) { return d.z[c]; });
      if (others[c]) open_ranks(others[c], dead, [](const casualty<F>&) { return F(0); });
    }
    collect();
  }

 private:
  const std::uint64_t* ids() const { return id_.empty() ? beam_.id : id_.data(); }

  void expand_origin() {
    if (!origin_.empty()) return;
    origin_.resize(size_);
    std::iota(origin_.begin(), origin_.end(), std::uint64_t{0});
  }

  void collect() {
    bunch_.reset();
    weight_.resize(size_);
    id_.resize(size_);
    for (std::size_t i = 0; i < size_; ++i) {
      weight_[i] = beam_.weight[origin_[i]];
      id_[i] = beam_.id[origin_[i]];
    }
  }

  template <class T>
  void close_ranks(T* column, std::span<const casualty<F>> dead) const {
    for (std::size_t k = 0; k < dead.size(); ++k) {
      const std::size_t from = dead[k].index + 1;
      const std::size_t to = k + 1 < dead.size() ? dead[k + 1].index : size_;
      std::copy(column + from, column + to, column + from - k - 1);
    }
  }

  /// size_ is the new size.
  template <class T, class Value>
  void open_ranks(T* column, std::span<const casualty<F>> dead, Value&& value) const {
    for (std::size_t k = dead.size(); k-- > 0;) {
      const std::size_t from = dead[k].index + 1;
      const std::size_t to = k + 1 < dead.size() ? dead[k + 1].index : size_;
      std::copy_backward(column + from - k - 1, column + to - k - 1, column + to);
      column[dead[k].index] = value(dead[k]);
    }
  }

  beam::reference ref_;
  beam::columns<const F> beam_;
  std::array<F*, 6> z_;
  std::size_t size_;
  std::shared_ptr<beam::bunch> bunch_{};        // made when needed: it looks at all numbers once
  std::vector<std::uint64_t> origin_{}, id_{};  // empty: all particles of the beam
  std::vector<F> weight_{};
};

}  // namespace betatron::tracking
