// kept_states.h: the coordinates of a tile (and where it radiates, marks and noise) in front of every operation of a section, for reverse passes that cannot, or
// must not, undo the maps.
//
// The tile is tracked through the section once, and kept in front of every n-th of its N operations, n = sqrt(N); it is
// tracked again from there through the n operations that are wanted: two more forward passes, and the memory of 2 sqrt(N)
// tiles per thread.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include "tracking/cpu/adjoint_table.h"
#include "tracking/cpu/forward_pass.h"

namespace betatron::tracking {

template <class F>
class kept_states {
 public:
  using particles = beam::columns<const F>;

  kept_states(const forward_pass<F>& pass, const section& part)
      : pass_(pass),
        part_(part),
        columns_(pass.plan().forward.radiation ? 9 : 6),
        stride_(columns_ * adjoint_tile_size) {
    const std::size_t n = part.last - part.first;
    segment_ = std::max<std::size_t>(
        1, static_cast<std::size_t>(std::ceil(std::sqrt(static_cast<double>(n)))));
    starts_.resize((n / segment_ + 1) * stride_);
    states_.resize(segment_ * stride_);
    energy_.resize(n / segment_ + 1);
  }

  /// Tracks `count` particles of `from` from `first` on through the section. `dead`: those that are lost there. All must
  /// stay as they are until the next call.
  void track(const particles& from, std::size_t first, std::size_t count,
             const std::vector<const casualty<F>*>& dead) {
    from_ = &from;
    first_ = first;
    count_ = count;
    dead_ = &dead;
    at_segment_ = none;
    const std::size_t width = kernels<F>().width;
    tile<F> t = tile_at(states_.data(), (count + width - 1) / width * width);
    for (std::size_t c = 0; c < 6; ++c) {
      std::copy_n(from.z[c] + first, count, t.z[c]);
      std::fill(t.z[c] + count, t.z[c] + t.count, F(0));
    }
    std::uint32_t energy = pass_.at_entrance;
    pass_.refresh(part_, energy, t);
    for (std::size_t i = 0; part_.first + i <= part_.last; ++i) {
      if (i % segment_ == 0) {
        copy(t.z[0], starts_.data() + i / segment_ * stride_, t.count);
        energy_[i / segment_] = energy;
      }
      if (part_.first + i < part_.last) again(part_.first + i, energy, t);
    }
  }

  /// Sets coordinates to those in front of forward operation `op`, which may be the end of the section. Those of
  /// particles on their way to be lost may be anything.
  void load(std::size_t op, const adjoint_tile<F>& to) {
    const F* from = in_front(op, to.count);
    for (std::size_t c = 0; c < 6; ++c) {
      std::copy_n(from + c * adjoint_tile_size, to.count, to.z[c]);
    }
  }

  /// What a step that radiates, which operation `op` ends, has beside them. Columns of `padded` numbers.
  struct radiated {
    std::array<const F*, 2> mark;
    const F* noise;
  };
  radiated load_radiated(std::size_t op, std::size_t padded) {
    const F* front = in_front(op, padded);
    return {{front + 6 * adjoint_tile_size, front + 7 * adjoint_tile_size},
            behind(op, padded) + 8 * adjoint_tile_size};
  }

 private:
  static constexpr std::size_t none = static_cast<std::size_t>(-1);

  /// The state in front of an operation, or at the end of the section.
  const F* in_front(std::size_t op, std::size_t padded) {
    const std::size_t number = op - part_.first;
    if (number % segment_ == 0) return starts_.data() + number / segment_ * stride_;
    return behind(op - 1, padded);
  }

  /// The state behind an operation, with the noise that it drew.
  const F* behind(std::size_t op, std::size_t padded) {
    const std::size_t number = op - part_.first, segment = number / segment_;
    if (segment != at_segment_) track_segment(segment, padded);
    return states_.data() + number % segment_ * stride_;
  }

  void track_segment(std::size_t segment, std::size_t padded) {
    const F* from = starts_.data() + segment * stride_;
    std::uint32_t energy = energy_[segment];
    const std::size_t begin = segment * segment_;
    const std::size_t end = std::min(begin + segment_, part_.last - part_.first);
    for (std::size_t i = begin; i < end; ++i) {
      const tile<F> t = tile_at(states_.data() + (i - begin) * stride_, padded);
      copy(from, t.z[0], padded);
      if (i == begin) pass_.refresh(part_, energy, t);
      again(part_.first + i, energy, t);
      from = t.z[0];
    }
    at_segment_ = segment;
  }

  tile<F> tile_at(F* z, std::size_t padded) {
    tile<F> t{{}, memory_.energy[0], memory_.energy[1], padded, memory_.outside};
    for (std::size_t c = 0; c < 6; ++c) t.z[c] = z + c * adjoint_tile_size;
    if (columns_ == 9) {
      t.mark = {z + 6 * adjoint_tile_size, z + 7 * adjoint_tile_size};
      t.noise = z + 8 * adjoint_tile_size;
    }
    return t;
  }

  void again(std::size_t op, std::uint32_t& energy, const tile<F>& t) {
    pass_.again(op, *from_, first_, count_, *dead_, energy, t, memory_.code);
  }

  void copy(const F* from, F* to, std::size_t n) const {
    for (std::size_t c = 0; c < std::min<std::size_t>(columns_, 8); ++c) {  // not the noise
      std::copy_n(from + c * adjoint_tile_size, n, to + c * adjoint_tile_size);
    }
  }

  struct workspace {
    alignas(64) F energy[2][adjoint_tile_size];
    std::uint32_t outside[adjoint_tile_size];
    code_memory code;
  };

  const forward_pass<F>& pass_;
  const section& part_;
  std::size_t columns_, stride_;  // of a state
  std::size_t segment_;           // operations between two of `starts`
  // in front of every segment; behind each operation of one. Noise is 0 in lanes that fill up the last pack
  std::vector<F> starts_{}, states_{};
  std::vector<std::uint32_t> energy_{};  // coefficients in force at the starts
  workspace memory_{};
  // the tile
  const particles* from_ = nullptr;
  std::size_t first_ = 0, count_ = 0, at_segment_ = none;
  const std::vector<const casualty<F>*>* dead_ = nullptr;
};

}  // namespace betatron::tracking
