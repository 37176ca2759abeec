#include "fields/particle_mesh.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

#include "numerics/parallel.h"
#include "numerics/reduction.h"

namespace betatron::fields {

namespace {

/// Bytes of the vectors at the nodes that a tile touches (see field_kernels): a part of a second-level cache.
constexpr std::size_t tile_bytes = 256 << 10;

/// Particles are sorted in at most so many blocks: fixed, because the order within a tile depends on it.
constexpr std::size_t max_blocks = 64;

std::size_t block_count(std::size_t particles) {
  return std::clamp<std::size_t>(particles / 16384, 1, max_blocks);
}

}  // namespace

template <class F>
extent extent_of(const beam::columns<const F>& particles, unsigned threads) {
  const std::size_t n = particles.size, blocks = block_count(n);
  if (n == 0) return {};
  std::vector<extent> parts(blocks);
  numerics::parallel_for(threads, blocks, [&](std::size_t b) {
    const std::size_t first = n * b / blocks, last = n * (b + 1) / blocks;
    for (std::size_t axis = 0; axis < 3; ++axis) {
      F low = 0, high = 0;
      const bool finite =
          kernels<F>().extent(particles.z[2 * axis] + first, last - first, &low, &high);
      parts[b].low[axis] = static_cast<double>(low);
      parts[b].high[axis] = static_cast<double>(high);
      parts[b].finite = parts[b].finite && finite;
    }
  });
  extent all = parts[0];
  for (const extent& e : parts) {
    for (std::size_t axis = 0; axis < 3; ++axis) {
      all.low[axis] = std::min(all.low[axis], e.low[axis]);
      all.high[axis] = std::max(all.high[axis], e.high[axis]);
    }
    all.finite = all.finite && e.finite;
  }
  return all;
}

template <class F>
void particle_mesh<F>::place(const beam::columns<const F>& particles, const mesh_frame& frame,
                             std::array<std::size_t, 3> n, unsigned threads) {
  count_ = particles.size;
  if (count_ > std::numeric_limits<std::uint32_t>::max()) {
    throw std::length_error("a mesh takes at most 2^32 - 1 particles, not " +
                            std::to_string(count_));
  }
  if (sorted_.size() < count_) sorted_ = huge_array<mesh_particle<F>>(count_);
  const std::array<double, 3> edges = frame.cells.edges();
  std::array<double, 3> scale, offset, last;
  for (std::size_t i = 0; i < 3; ++i) {
    scale[i] = (i == 2 ? frame.t_scale : 1.0) / edges[i];
    offset[i] = -frame.origin[i] / edges[i];
    last[i] = static_cast<double>(n[i] - 1 - mesh_margin);
  }
  const auto position = [&](std::size_t axis, std::size_t p) {
    const double u = static_cast<double>(particles.z[2 * axis][p]) * scale[axis] + offset[axis];
    constexpr double margin = static_cast<double>(mesh_margin);
    return u > margin ? (u < last[axis] ? u : last[axis]) : margin;  // the margin for NaN, too
  };
  const std::size_t rows = tile_bytes / (4 * sizeof(F) * n[0] * (tile_planes + 3));
  tile_rows_ = std::clamp<std::size_t>(rows, 11, n[1] + 3) - 3;
  tiles_y_ = (n[1] + tile_rows_ - 1) / tile_rows_;
  const std::size_t tiles = tiles_y_ * ((n[2] + tile_planes - 1) / tile_planes);
  constexpr double low = static_cast<double>(mesh_margin);
  const tile_map map{{scale[1], scale[2]},
                     {offset[1], offset[2]},
                     low,
                     {last[1], last[2]},
                     1 / static_cast<double>(tile_rows_),
                     static_cast<std::uint32_t>(tiles_y_)};
  if (rank_.size() < count_) rank_ = huge_array<std::uint32_t>(count_);

  const std::size_t blocks = block_count(count_);
  std::vector<std::uint32_t> next(blocks * tiles);
  numerics::parallel_for(threads, blocks, [&](std::size_t b) {
    std::uint32_t* counts = next.data() + b * tiles;
    const std::size_t begin = count_ * b / blocks, end = count_ * (b + 1) / blocks;
    kernels<F>().tiles(particles.z[2] + begin, particles.z[4] + begin, end - begin, map,
                       rank_.data() + begin);
    for (std::size_t p = begin; p < end; ++p) ++counts[rank_[p]];
  });
  first_.assign(tiles + 1, 0);
  std::size_t sum = 0;
  for (std::size_t t = 0; t < tiles; ++t) {
    first_[t] = sum;
    for (std::size_t b = 0; b < blocks; ++b) {
      std::uint32_t& here = next[b * tiles + t];
      const std::size_t count = here;
      here = static_cast<std::uint32_t>(sum);
      sum += count;
    }
  }
  first_[tiles] = sum;
  numerics::parallel_for(threads, blocks, [&](std::size_t b) {
    std::uint32_t* to = next.data() + b * tiles;
    for (std::size_t p = count_ * b / blocks; p < count_ * (b + 1) / blocks; ++p) {
      const std::uint32_t tile = rank_[p];
      // not below its slab, should rounding differ between here and there
      const double slab = static_cast<double>(tile / map.tiles_y * tile_planes);
      const double z = std::max(position(2, p), slab);
      const std::uint32_t rank = to[tile]++;
      sorted_[rank] = {static_cast<F>(position(0, p)), static_cast<F>(position(1, p)),
                       static_cast<F>(z), particles.weight[p]};
      rank_[p] = rank;
    }
  });
}

template <class F>
void particle_mesh<F>::deposit(int order, grid<F>& density, unsigned threads) const {
  const std::size_t slabs = (first_.size() - 1) / tiles_y_;
  for (std::size_t odd = 0; odd < 2; ++odd) {
    numerics::parallel_for(threads, (slabs + 1 - odd) / 2, [&](std::size_t i) {
      const std::size_t slab = 2 * i + odd;
      const std::size_t begin = first_[slab * tiles_y_], end = first_[(slab + 1) * tiles_y_];
      kernels<F>().deposit(order, sorted_.data() + begin, end - begin, density.view());
    });
  }
}

/// For the nodes that the particles of a tile touch, see field_kernels.
template <class F>
huge_array<F> particle_mesh<F>::tile_memory(const grid<F>& mesh) const {
  // with a cubic shape two more below and above; one more, where a place was rounded up
  return huge_array<F>(4 * (tile_planes + 5) * (tile_rows_ + 5) *
                       (whole_packs<F>(mesh.nodes()[0]) + kernels<F>().width));
}

/// work(p, triple of p) for all particles of the beam.
template <class F>
template <class Work>
void particle_mesh<F>::for_each(huge_array<triple<F>>& sorted, unsigned threads,
                                Work&& work) const {
  const std::size_t blocks = block_count(count_);
  numerics::parallel_for(threads, blocks, [&](std::size_t b) {
    for (std::size_t p = count_ * b / blocks; p < count_ * (b + 1) / blocks; ++p) {
      work(p, sorted[rank_[p]]);
    }
  });
}

template <class F>
void particle_mesh<F>::gather(int order, const grid<F>& potential,
                              const std::array<double, 3>& factor, F* px, F* py, F* pt,
                              unsigned threads) {
  const std::size_t tiles = first_.size() - 1;
  const F f[3] = {static_cast<F>(factor[0]), static_cast<F>(factor[1]), static_cast<F>(factor[2])};
  if (fields_.size() < count_) fields_ = huge_array<triple<F>>(count_);
  numerics::parallel_for_with(
      threads, tiles, [&] { return tile_memory(potential); },
      [&](huge_array<F>& memory, std::size_t t) {
        kernels<F>().gather(order, sorted_.data() + first_[t], first_[t + 1] - first_[t],
                            potential.view(), f, fields_.data() + first_[t], memory.data());
      });
  for_each(fields_, threads, [=](std::size_t p, const triple<F>& kick) {
    px[p] += kick.x;
    py[p] += kick.y;
    pt[p] += kick.z;
  });
}

template <class F>
void particle_mesh<F>::deposit_pull(int order, const pull_columns<F>& columns, grid<F>& density,
                                    grid<F>& dual, unsigned threads) {
  if (pulls_.size() < count_) pulls_ = huge_array<triple<F>>(count_);
  for_each(pulls_, threads, [c = columns](std::size_t p, triple<F>& pull) {
    pull = {c.factor[0] * c.by_momentum[0][p], c.factor[1] * c.by_momentum[1][p],
            c.factor[2] * c.by_momentum[2][p]};
  });
  // with two slabs between those of one pass, which then share no node
  constexpr std::size_t passes = 3;
  const std::size_t slabs = (first_.size() - 1) / tiles_y_;
  for (std::size_t pass = 0; pass < passes; ++pass) {
    numerics::parallel_for_with(
        threads, (slabs + passes - 1 - pass) / passes, [&] { return tile_memory(dual); },
        [&](huge_array<F>& memory, std::size_t i) {
          const std::size_t slab = passes * i + pass;
          for (std::size_t t = slab * tiles_y_; t < (slab + 1) * tiles_y_; ++t) {
            kernels<F>().deposit_pull(order, sorted_.data() + first_[t], first_[t + 1] - first_[t],
                                      pulls_.data() + first_[t], density.view(), dual.view(),
                                      memory.data());
          }
        });
  }
}

template <class F>
std::array<double, 9> particle_mesh<F>::gather_pull(int order, const grid<F>& potential,
                                                    const grid<F>& dual,
                                                    const pull_columns<F>& columns,
                                                    unsigned threads) {
  const std::size_t tiles = first_.size() - 1;
  std::vector<std::array<double, 9>> sums(tiles);
  if (fields_.size() < count_) fields_ = huge_array<triple<F>>(count_);
  numerics::parallel_for_with(
      threads, tiles, [&] { return tile_memory(potential); },
      [&](huge_array<F>& memory, std::size_t t) {
        const std::size_t begin = first_[t], end = first_[t + 1];
        kernels<F>().gather_pull(order, sorted_.data() + begin, end - begin, potential.view(),
                                 dual.view(), columns.centre, fields_.data() + begin,
                                 pulls_.data() + begin, sums[t].data(), memory.data());
      });
  for_each(fields_, threads, [c = columns](std::size_t p, const triple<F>& field) {
    c.momentum[0][p] -= c.undo[0] * field.x;
    c.momentum[1][p] -= c.undo[1] * field.y;
    c.momentum[2][p] -= c.undo[2] * field.z;
  });
  for_each(pulls_, threads, [c = columns](std::size_t p, const triple<F>& nu) {
    c.by_place[0][p] += c.scale[0] * nu.x;
    c.by_place[1][p] += c.scale[1] * nu.y;
    c.by_place[2][p] += c.scale[2] * nu.z;
  });
  std::array<double, 9> total;
  for (std::size_t k = 0; k < total.size(); ++k) {
    numerics::compensated_sum sum;
    for (const auto& part : sums) sum.add(part[k]);
    total[k] = sum.value();
  }
  return total;
}

template extent extent_of(const beam::columns<const float>&, unsigned);
template extent extent_of(const beam::columns<const double>&, unsigned);
template class particle_mesh<float>;
template class particle_mesh<double>;

}  // namespace betatron::fields
