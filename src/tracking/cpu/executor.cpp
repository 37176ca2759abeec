#include "tracking/cpu/executor.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <memory>
#include <stdexcept>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

#include "tracking/cpu/blocks.h"
#include "tracking/cpu/code_push.h"
#include "tracking/cpu/kernel_table.h"
#include "tracking/cpu/noise.h"

namespace betatron::tracking {

namespace {

using lattice::operation;
using lattice::program;

/// What a lost particle looked like. Its lane goes on as a particle on the reference orbit, which is harmless in
/// every map, and gets its coordinates back at the end.
template <class F>
struct casualty {
  std::size_t lane;
  std::array<F, 6> z;
  std::array<F, 3> spin;  // 0 in a beam without spins
};

struct block_result {
  std::vector<beam::moment_sums> records;
  std::vector<beam::bunch::loss> losses;
};

std::vector<beam::loss_reason> loss_reasons() {
  std::vector<beam::loss_reason> reasons;
  elements::all_maps::for_each([&]<template <class> class Map>() {
    if constexpr (requires { Map<double>::loss; }) {
      reasons.push_back(Map<double>::loss);
    } else {
      reasons.push_back(beam::loss_reason::non_finite);
    }
  });
  return reasons;
}

/// Cache-resident memory of one thread.
template <class F>
struct workspace {
  // a few cache lines between columns keep them apart modulo 4096 bytes
  static constexpr std::size_t stride = tile_size + 64 / sizeof(F);
  alignas(64) F energy[2][stride];
  alignas(
      64) F tail[9][stride];  // coordinates and spins of a tile that must not be worked on in place
  alignas(64) F mark[2][stride];
  alignas(64) F noise[stride];
  std::uint32_t outside[tile_size];
  bool gone[tile_size];  // lanes of casualties
  code_memory code;
};

/// The operations that are run.
std::span<const operation> operations_of(const program& p, const cpu_run& how) {
  const std::size_t last = std::min(how.last, p.operations.size());
  return std::span(p.operations)
      .subspan(std::min(how.first, last), last - std::min(how.first, last));
}

std::size_t recorded_turns(const cpu_run& how) {
  return static_cast<std::size_t>(count_turns(how.first_turn, how.turns, how.record_every));
}
std::size_t observed_turns(const cpu_run& how) {
  return static_cast<std::size_t>(count_turns(how.first_turn, how.turns, how.observe_every));
}

template <class F>
class worker {
 public:
  worker(const program& p, const F* coefficients, const beam::columns<F>& particles,
         const cpu_run& how, const kernel_table<F>& table,
         const std::vector<beam::loss_reason>& reasons)
      : program_(p),
        operations_(operations_of(p, how)),
        coefficients_(coefficients),
        particles_(particles),
        how_(how),
        table_(table),
        reasons_(reasons),
        memory_(std::make_unique_for_overwrite<workspace<F>>()) {}

  /// Particles [first, last), through everything.
  block_result run_block(std::size_t first, std::size_t last) {
    block_result result;
    result.records.resize(program_.records.size() * recorded_turns(how_));
    for (std::size_t i = first; i < last; i += tile_size) {
      run_tile(i, std::min(tile_size, last - i), result);
    }
    return result;
  }

 private:
  void run_tile(std::size_t first, std::size_t count, block_result& result) {
    // the last tile may not fill its packs: it is worked on in a copy, filled up with particles on the axis
    const std::size_t padded = (count + table_.width - 1) / table_.width * table_.width;
    const bool in_place = padded == count;
    tile<F> t{{}, memory_->energy[0], memory_->energy[1], padded, memory_->outside};
    auto place = [&](F* column, F* tail) {
      if (in_place) return column;
      std::copy(column, column + count, tail);
      std::fill(tail + count, tail + padded, F(0));
      return tail;
    };
    for (std::size_t c = 0; c < 6; ++c) t.z[c] = place(particles_.z[c] + first, memory_->tail[c]);
    for (std::size_t c = 0; particles_.has_spin() && c < 3; ++c) {
      t.spin[c] = place(particles_.spin[c] + first, memory_->tail[6 + c]);
    }
    t.mark = {memory_->mark[0], memory_->mark[1]};
    t.noise = memory_->noise;
    std::fill_n(t.noise, padded, F(0));
    casualties_.clear();
    std::fill_n(memory_->gone, padded, false);
    const auto begin =
        std::ranges::lower_bound(how_.observed, first, {}, &observed_particle::index);
    const std::span<const observed_particle> watched(
        begin, std::ranges::lower_bound(begin, how_.observed.end(), first + count, {},
                                        &observed_particle::index));
    std::size_t recorded = 0, observed = 0;  // turns so far
    const F energy[2] = {static_cast<F>(program_.entrance_energy[0]),
                         static_cast<F>(program_.entrance_energy[1])};
    refresh(energy, t);

    for (std::int64_t turn = 0; turn < how_.turns; ++turn) {
      const bool record = (how_.first_turn + turn) % how_.record_every == 0;
      const bool observe = (how_.first_turn + turn) % how_.observe_every == 0;
      beam::moment_sums* records = result.records.data() + recorded * program_.records.size();
      for (const operation& op : operations_) {
        const F* coefficients = coefficients_ + op.coefficients;
        if (op.code < operation::map_count) [[likely]] {
          if (push(static_cast<std::size_t>(op.code), coefficients, t)) [[unlikely]] {
            collect(t, first, count, op, turn, reasons_[static_cast<std::size_t>(op.code)], result);
          }
        } else if (op.code == operation::refresh) {
          refresh(coefficients, t);
        } else if (op.code == operation::mark) {
          table_.mark(coefficients, t);
        } else if (op.code == operation::radiate) {
          draw_noise(coefficients, program_.noise_seed, how_.first_turn + turn, op.element,
                     particles_.id + first, count, t.noise);
          if (table_.radiate(coefficients, t)) [[unlikely]] {
            collect(t, first, count, op, turn, elements::radiation_loss<F>::loss, result);
          }
        } else if (op.code == operation::call) {
          call(program_.calls[op.coefficients], t, first, count, op, turn, result);
        } else if (op.code == operation::record) {
          if (!record) continue;
          find_non_finite(t, first, count, op, turn, result);
          records[op.coefficients].merge(sum(t, first, count));
        } else if (observe) {
          copy_out(t, first, watched, op.coefficients, observed);
        }
      }
      recorded += record;
      observed += observe;
      if (!operations_.empty() && (turn & 63) == 63) {
        find_non_finite(t, first, count, operations_.back(), turn, result);
      }
    }
    if (!operations_.empty()) {
      find_non_finite(t, first, count, operations_.back(), how_.turns - 1, result);
    }
    for (const casualty<F>& dead : casualties_) {
      for (std::size_t c = 0; c < 6; ++c) t.z[c][dead.lane] = dead.z[c];
      for (std::size_t c = 0; particles_.has_spin() && c < 3; ++c) {
        t.spin[c][dead.lane] = dead.spin[c];
      }
    }
    if (!in_place) {
      for (std::size_t c = 0; c < 6; ++c) {
        std::copy(t.z[c], t.z[c] + count, particles_.z[c] + first);
      }
      for (std::size_t c = 0; particles_.has_spin() && c < 3; ++c) {
        std::copy(t.spin[c], t.spin[c] + count, particles_.spin[c] + first);
      }
    }
  }

  /// Through the map with this code; true if it loses particles.
  bool push(std::size_t code, const F* coefficients, const tile<F>& t) {
    if (program_.spin && table_.push_spin[code] != nullptr) {
      return table_.push_spin[code](coefficients, t, gyration_);
    }
    return table_.push[code](coefficients, t);
  }

  /// Code of others. What it makes infinite or NaN is found at once: a map that follows could hide it.
  void call(const elements::code_call& c, const tile<F>& t, std::size_t first, std::size_t count,
            const operation& op, std::int64_t turn, block_result& result) {
    const elements::code_place place = c.at(how_.first_turn + turn, op.element);
    const auto view = view_of(t.z, t.count, particles_.weight + first, particles_.id + first, count,
                              memory_->code);
    if (push_code(*c.tiles, place, view, table_.width, t.outside, memory_->code)) [[unlikely]] {
      collect(t, first, count, op, turn, beam::loss_reason::outside_domain, result);
    }
    find_non_finite(t, first, count, op, turn, result);
  }

  void refresh(const F* energy, const tile<F>& t) {
    table_.refresh(energy, t);
    const F bg = 1 / std::sqrt(energy[1]);
    gyration_ = {static_cast<F>(program_.anomaly), energy[0] * bg, bg};
  }

  /// Observation number `place` in the `turn`-th observed turn: the coordinates of particles of this tile.
  void copy_out(const tile<F>& t, std::size_t first, std::span<const observed_particle> particles,
                std::size_t place, std::size_t turn) {
    const std::size_t turns = observed_turns(how_);
    for (std::size_t c = 0; c < 6; ++c) {
      double* to = how_.observations + ((place * 6 + c) * turns + turn) * how_.slots;
      for (const observed_particle& p : particles) {
        const std::size_t lane = p.index - first;
        if (!memory_->gone[lane]) to[p.slot] = static_cast<double>(t.z[c][lane]);
      }
    }
  }

  /// Takes the lanes that a kernel has marked out of the beam.
  void collect(const tile<F>& t, std::size_t first, std::size_t count, const operation& op,
               std::int64_t turn, beam::loss_reason reason, block_result& result) {
    for (std::size_t p = 0; p * table_.width < t.count; ++p) {
      for (std::uint32_t bits = t.outside[p]; bits != 0; bits &= bits - 1) {
        const std::size_t lane =
            p * table_.width + static_cast<std::size_t>(std::countr_zero(bits));
        if (lane >= count || memory_->gone[lane]) continue;
        memory_->gone[lane] = true;
        casualty<F> dead{lane, {}, {}};
        bool finite = true;
        for (std::size_t c = 0; c < 6; ++c) {
          dead.z[c] = t.z[c][lane];
          finite = finite && std::isfinite(dead.z[c]);
          t.z[c][lane] = F(0);
        }
        for (std::size_t c = 0; particles_.has_spin() && c < 3; ++c) {
          dead.spin[c] = t.spin[c][lane];
        }
        t.inv_p[lane] = F(1);
        t.slip[lane] = F(0);
        casualties_.push_back(dead);
        // a map cannot tell NaN from outside
        result.losses.push_back({first + lane, op.s, how_.first_turn + turn, op.element,
                                 finite ? reason : beam::loss_reason::non_finite});
      }
    }
  }

  void find_non_finite(const tile<F>& t, std::size_t first, std::size_t count, const operation& op,
                       std::int64_t turn, block_result& result) {
    if (table_.find_non_finite(t)) [[unlikely]] {
      collect(t, first, count, op, turn, beam::loss_reason::non_finite, result);
    }
  }

  /// Sums over the particles of the tile that are still in the beam.
  beam::moment_sums sum(const tile<F>& t, std::size_t first, std::size_t count) {
    beam::columns<const F> view{{t.z[0], t.z[1], t.z[2], t.z[3], t.z[4], t.z[5]},
                                particles_.weight + first,
                                particles_.id + first,
                                count,
                                {t.spin[0], t.spin[1], t.spin[2]}};
    if (casualties_.empty()) return table_.sum(view, 0, count);
    std::vector<F> alive[10];
    for (std::size_t i = 0; i < count; ++i) {
      if (memory_->gone[i]) continue;
      for (std::size_t c = 0; c < 6; ++c) alive[c].push_back(t.z[c][i]);
      alive[6].push_back(view.weight[i]);
      for (std::size_t c = 0; view.has_spin() && c < 3; ++c)
        alive[7 + c].push_back(view.spin[c][i]);
    }
    view.size = alive[6].size();
    for (std::size_t c = 0; c < 6; ++c) view.z[c] = alive[c].data();
    view.weight = alive[6].data();
    for (std::size_t c = 0; view.has_spin() && c < 3; ++c) view.spin[c] = alive[7 + c].data();
    return table_.sum(view, 0, view.size);
  }

  const program& program_;
  std::span<const operation> operations_;
  const F* coefficients_;
  const beam::columns<F>& particles_;
  const cpu_run& how_;
  const kernel_table<F>& table_;
  const std::vector<beam::loss_reason>& reasons_;
  std::unique_ptr<workspace<F>> memory_;
  std::vector<casualty<F>> casualties_;
  elements::gyration<F> gyration_{};  // where the tile is
};

}  // namespace

template <class F>
cpu_result run(const program& p, const beam::columns<F>& particles, const cpu_run& how) {
  if (p.spin && !particles.has_spin() && particles.size > 0) {
    throw std::invalid_argument("spins cannot be tracked: the beam has none");
  }
  const std::span<const operation> operations = operations_of(p, how);
  for (const operation& op : operations) {
    if (op.code == operation::call && p.calls[op.coefficients].tiles == nullptr) {
      throw std::invalid_argument("code for the whole beam cannot be run tile by tile");
    }
  }
  const kernel_table<F>& table = kernels<F>();
  static const std::vector<beam::loss_reason> reasons = loss_reasons();
  std::vector<float> single;
  const F* coefficients;
  if constexpr (std::is_same_v<F, float>) {
    single = p.single_coefficients();
    coefficients = single.data();
  } else {
    coefficients = p.coefficients.data();
  }

  std::vector<block_result> results(block_count(particles.size));
  const double work = lattice::work_of(operations, p) * static_cast<double>(how.turns);
  for_blocks(
      particles.size, work, how.threads,
      [&] { return worker<F>(p, coefficients, particles, how, table, reasons); },
      [&](worker<F>& w, std::size_t b, std::size_t first, std::size_t last) {
        results[b] = w.run_block(first, last);
      });

  cpu_result result;
  result.records.resize(p.records.size() * recorded_turns(how));
  for (const block_result& b : results) {
    for (std::size_t i = 0; i < result.records.size(); ++i) result.records[i].merge(b.records[i]);
    result.losses.insert(result.losses.end(), b.losses.begin(), b.losses.end());
  }
  std::sort(result.losses.begin(), result.losses.end(),
            [](const auto& a, const auto& b) { return a.index < b.index; });
  return result;
}

template cpu_result run(const program&, const beam::columns<float>&, const cpu_run&);
template cpu_result run(const program&, const beam::columns<double>&, const cpu_run&);

const char* instruction_set() { return kernels<double>().isa; }

unsigned available_threads() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    return static_cast<unsigned>(std::max(1, CPU_COUNT(&set)));
  }
#endif
  return std::max(1u, std::thread::hardware_concurrency());
}

}  // namespace betatron::tracking
