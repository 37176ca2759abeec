// forward_pass.h: takes particles through a section of a program that is to be run backwards, and notes who is lost.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "beam/moments.h"
#include "lattice/sensitivity.h"
#include "tracking/cpu/blocks.h"
#include "tracking/cpu/code_push.h"
#include "tracking/cpu/kernel_table.h"
#include "tracking/cpu/noise.h"
#include "tracking/section.h"

namespace betatron::tracking {

/// In the precision F.
template <class F>
std::vector<F> narrowed(const std::vector<double>& v) {
  std::vector<F> r(v.size());
  std::transform(v.begin(), v.end(), r.begin(), [](double x) { return static_cast<F>(x); });
  return r;
}

template <class F>
class forward_pass {
 public:
  using particles = beam::columns<const F>;
  using operation = lattice::operation;

  /// elements: of one turn. The plan must live as long as this.
  forward_pass(const lattice::sensitivity& plan, std::size_t elements)
      : plan_(plan),
        elements_(static_cast<std::int32_t>(std::max<std::size_t>(1, elements))),
        coefficients_(narrowed<F>(plan.forward.coefficients)) {}

  const lattice::sensitivity& plan() const { return plan_; }

  /// Tracks all particles of `from` through a section; `to` may be the same columns. Sums of its records, and who was
  /// lost, in the order of the columns.
  /// `entrances`: where coordinates at calls of code are kept, one entry per call of the line; null: nowhere.
  void run(const section& part, const particles& from, const std::array<F*, 6>& to,
           unsigned threads, std::vector<beam::moment_sums>& records,
           std::vector<casualty<F>>& casualties, std::vector<F>* entrances = nullptr) const {
    for (std::size_t i = part.first; entrances && i < part.last; ++i) {
      const operation& op = plan_.forward.operations[i];
      if (op.code == operation::call) entrances[op.coefficients].resize(6 * from.size);
    }
    const std::size_t count = part.last_record - part.first_record;
    const std::size_t blocks = block_count(from.size);
    std::vector<std::vector<beam::moment_sums>> sums(blocks);
    std::vector<std::vector<casualty<F>>> dead(blocks);
    for_blocks(
        from.size, static_cast<double>(part.last - part.first), threads,
        [] { return std::make_unique<workspace>(); },
        [&](auto& memory, std::size_t b, std::size_t first, std::size_t last) {
          sums[b].resize(count);
          for (std::size_t i = first; i < last; i += tile_size) {
            run_tile(part, from, to, i, std::min(tile_size, last - i), *memory, sums[b].data(),
                     dead[b], entrances);
          }
        });
    records.assign(count, {});
    casualties.clear();
    for (std::size_t b = 0; b < blocks; ++b) {
      for (std::size_t i = 0; i < count; ++i) records[i].merge(sums[b][i]);
      casualties.insert(casualties.end(), dead[b].begin(), dead[b].end());
    }
    std::ranges::stable_sort(casualties, {}, &casualty<F>::index);
  }

  /// One operation on `count` particles from `first` on, once more, of which `dead` are those that are lost somewhere.
  /// `energy` follows the coefficients of the energy columns.
  void again(std::size_t i, const particles& from, std::size_t first, std::size_t count,
             const std::vector<const casualty<F>*>& dead, std::uint32_t& energy, const tile<F>& t,
             code_memory& memory) const {
    const operation& op = plan_.forward.operations[i];
    const kernel_table<F>& table = kernels<F>();
    const auto leave = [&](auto&& leaves) {
      for (const casualty<F>* d : dead) {
        if (d->op == i && leaves(*d)) put_away(t, d->index - first);
      }
    };
    if (op.code < operation::map_count) {
      table.push[static_cast<std::size_t>(op.code)](coefficients_.data() + op.coefficients, t);
    } else if (op.code == operation::refresh) {
      table.refresh(coefficients_.data() + op.coefficients, t);
      energy = op.coefficients;
    } else if (op.code == operation::call) {
      leave([](const casualty<F>& d) { return !d.in_code; });
      call(op, from, first, count, t, memory);
    } else if (op.code == operation::mark) {
      table.mark(coefficients_.data() + op.coefficients, t);
    } else if (op.code == operation::radiate) {
      draw_noise(op, from.id + first, count, t.noise);
      table.radiate(coefficients_.data() + op.coefficients, t);
    }
    leave([](const casualty<F>&) { return true; });
  }

  static constexpr std::uint32_t at_entrance = static_cast<std::uint32_t>(-1);

  /// The energy columns, where these coefficients (or those at the entrance of the section) are in force.
  void refresh(const section& part, std::uint32_t energy, const tile<F>& t) const {
    const F entrance[2] = {static_cast<F>(part.entrance[0]), static_cast<F>(part.entrance[1])};
    kernels<F>().refresh(energy == at_entrance ? entrance : coefficients_.data() + energy, t);
  }

  /// The fluctuations of a step that radiates, of `count` particles.
  void draw_noise(const operation& op, const std::uint64_t* id, std::size_t count, F* noise) const {
    tracking::draw_noise(coefficients_.data() + op.coefficients, plan_.forward.noise_seed,
                         op.element / elements_, op.element % elements_, id, count, noise);
  }

  /// Where code is called.
  elements::code_place place_of(const elements::code_call& c, const operation& op) const {
    return c.at(op.element / elements_, op.element % elements_);
  }

 private:
  struct workspace {
    // a few cache lines between columns keep them apart modulo 4096 bytes
    static constexpr std::size_t stride = tile_size + 64 / sizeof(F);
    alignas(64) F energy[2][stride];
    alignas(64) F z[6][stride];
    alignas(64) F seen[6][stride];  // at the last record
    alignas(64) F mark[2][stride];
    alignas(64) F noise[stride];
    std::uint32_t outside[tile_size];
    bool gone[tile_size];
    code_memory code;
  };

  void run_tile(const section& part, const particles& from, const std::array<F*, 6>& to,
                std::size_t first, std::size_t count, workspace& memory, beam::moment_sums* records,
                std::vector<casualty<F>>& casualties, std::vector<F>* entrances) const {
    const kernel_table<F>& table = kernels<F>();
    const std::size_t padded = (count + table.width - 1) / table.width * table.width;
    tile<F> t{{}, memory.energy[0], memory.energy[1], padded, memory.outside};
    for (std::size_t c = 0; c < 6; ++c) {
      std::copy_n(from.z[c] + first, count, memory.z[c]);
      std::fill(memory.z[c] + count, memory.z[c] + padded, F(0));
      t.z[c] = memory.z[c];
    }
    t.mark = {memory.mark[0], memory.mark[1]};
    t.noise = memory.noise;
    if (plan_.forward.radiation) std::fill_n(t.noise, padded, F(0));
    std::fill_n(memory.gone, padded, false);
    const std::size_t dead_before = casualties.size();
    std::ptrdiff_t seen = casualty<F>::at_start;
    const auto& operations = plan_.forward.operations;
    auto collect = [&](std::size_t op, bool in_code = false) {
      for (std::size_t p = 0; p * table.width < padded; ++p) {
        for (std::uint32_t bits = t.outside[p]; bits != 0; bits &= bits - 1) {
          const std::size_t lane =
              p * table.width + static_cast<std::size_t>(std::countr_zero(bits));
          if (lane >= count || memory.gone[lane]) continue;
          memory.gone[lane] = true;
          casualty<F> dead{first + lane, first + lane, op, in_code, {}, seen, {}};
          for (std::size_t c = 0; c < 6; ++c) {
            dead.z[c] = t.z[c][lane];
            dead.seen_at[c] =
                seen == casualty<F>::at_start ? from.z[c][first + lane] : memory.seen[c][lane];
          }
          put_away(t, lane);
          casualties.push_back(dead);
        }
      }
    };
    const F energy[2] = {static_cast<F>(part.entrance[0]), static_cast<F>(part.entrance[1])};
    table.refresh(energy, t);
    for (std::size_t i = part.first; i < part.last; ++i) {
      const operation& op = operations[i];
      const F* own = coefficients_.data() + op.coefficients;
      if (op.code < operation::map_count) [[likely]] {
        if (table.push[static_cast<std::size_t>(op.code)](own, t)) [[unlikely]]
          collect(i);
      } else if (op.code == operation::refresh) {
        table.refresh(own, t);
      } else if (op.code == operation::call) {
        if (table.find_non_finite(t)) [[unlikely]]
          collect(i);
        if (entrances) {
          F* kept = entrances[op.coefficients].data() + first;
          for (std::size_t c = 0; c < 6; ++c) std::copy_n(t.z[c], count, kept + c * from.size);
        }
        if (call(op, from, first, count, t, memory.code)) [[unlikely]]
          collect(i, true);
        if (table.find_non_finite(t)) [[unlikely]]
          collect(i, true);
      } else if (op.code == operation::mark) {
        table.mark(own, t);
      } else if (op.code == operation::radiate) {
        draw_noise(op, from.id + first, count, t.noise);
        if (table.radiate(own, t)) [[unlikely]]
          collect(i);
      } else {
        if (table.find_non_finite(t)) [[unlikely]]
          collect(i);
        records[op.coefficients - part.first_record].merge(
            sum(from, t, first, count, memory.gone, casualties.size() != dead_before));
        seen = static_cast<std::ptrdiff_t>(i);
        for (std::size_t c = 0; c < 6; ++c) std::copy_n(t.z[c], count, memory.seen[c]);
      }
    }
    if (table.find_non_finite(t)) [[unlikely]]
      collect(part.last);
    for (std::size_t k = dead_before; k < casualties.size(); ++k) {
      const casualty<F>& dead = casualties[k];
      for (std::size_t c = 0; c < 6; ++c) t.z[c][dead.index - first] = dead.z[c];
    }
    for (std::size_t c = 0; c < 6; ++c) std::copy_n(t.z[c], count, to[c] + first);
  }

  /// A lost particle goes on as one on the reference orbit, which is harmless in every map.
  static void put_away(const tile<F>& t, std::size_t lane) {
    for (std::size_t c = 0; c < 6; ++c) t.z[c][lane] = F(0);
    if (t.mark[0] != nullptr) t.mark[0][lane] = t.mark[1][lane] = F(0);
    t.inv_p[lane] = F(1);
    t.slip[lane] = F(0);
  }

  /// Tile code on `count` particles from `first` on; returns whether some are marked in t.outside as lost.
  bool call(const operation& op, const particles& from, std::size_t first, std::size_t count,
            const tile<F>& t, code_memory& memory) const {
    const elements::code_call& c = plan_.forward.calls[op.coefficients];
    const auto view = view_of(t.z, t.count, from.weight + first, from.id + first, count, memory);
    return push_code(*c.tiles, place_of(c, op), view, kernels<F>().width, t.outside, memory);
  }

  /// Sums over the particles of the tile that are still in the beam.
  static beam::moment_sums sum(const particles& from, const tile<F>& t, std::size_t first,
                               std::size_t count, const bool* gone, bool any_gone) {
    particles view{{t.z[0], t.z[1], t.z[2], t.z[3], t.z[4], t.z[5]},
                   from.weight + first,
                   from.id + first,
                   count};
    if (!any_gone) return kernels<F>().sum(view, 0, count);
    std::vector<F> alive[7];
    for (std::size_t i = 0; i < count; ++i) {
      if (gone[i]) continue;
      for (std::size_t c = 0; c < 6; ++c) alive[c].push_back(t.z[c][i]);
      alive[6].push_back(view.weight[i]);
    }
    view.size = alive[6].size();
    for (std::size_t c = 0; c < 6; ++c) view.z[c] = alive[c].data();
    view.weight = alive[6].data();
    return kernels<F>().sum(view, 0, view.size);
  }

  const lattice::sensitivity& plan_;
  std::int32_t elements_;
  std::vector<F> coefficients_;
};

}  // namespace betatron::tracking
