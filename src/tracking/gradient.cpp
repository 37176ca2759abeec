#include "tracking/gradient.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <exception>
#include <functional>
#include <stdexcept>
#include <thread>
#include <variant>

#include "numerics/reduction.h"
#include "tracking/cpu/adjoint_table.h"
#include "tracking/cpu/executor.h"
#include "tracking/cpu/kernel_table.h"

namespace betatron::tracking {

namespace {

using lattice::operation;
using lattice::reverse_operation;

/// As in cpu/executor.cpp: sums are formed per block and added in the order of blocks.
constexpr std::size_t max_blocks = 64;
constexpr double work_per_thread = 2e5;
constexpr int map_count = static_cast<int>(elements::all_maps::size);

static_assert(tile_size % adjoint_tile_size == 0);

/// A particle that was lost in operation `op` of the forward program, and where it was in front of that.
template <class F>
struct casualty {
  std::size_t index;
  std::size_t op;
  bool finite;
  std::array<F, 6> z;
};

/// Cuts particles into blocks of tiles and calls work(block, first, last) for each, on several threads, where
/// make_work() makes what one thread works with.
template <class MakeWork>
void for_blocks(std::size_t particles, double operations, unsigned threads, MakeWork&& make_work) {
  const std::size_t tiles = (particles + tile_size - 1) / tile_size;
  const std::size_t blocks = std::min(tiles, max_blocks);
  std::atomic<std::size_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr failure;
  auto run = [&] {
    try {
      auto work = make_work();
      for (std::size_t b = next++; b < blocks && !failed; b = next++) {
        const std::size_t first = tiles * b / blocks * tile_size;
        work(b, first, std::min(particles, tiles * (b + 1) / blocks * tile_size));
      }
    } catch (...) {
      if (!failed.exchange(true)) failure = std::current_exception();
    }
  };
  const auto wanted = static_cast<std::size_t>(
      std::max(1.0, static_cast<double>(particles) * operations / work_per_thread));
  const std::size_t count =
      std::min({static_cast<std::size_t>(std::max(1u, threads)), blocks, wanted});
  std::vector<std::thread> pool;
  for (std::size_t i = 1; i < count; ++i) pool.emplace_back(run);
  run();
  for (std::thread& t : pool) t.join();
  if (failure) std::rethrow_exception(failure);
}

std::size_t block_count(std::size_t particles) {
  return std::min((particles + tile_size - 1) / tile_size, max_blocks);
}

template <class F>
std::vector<F> narrowed(const std::vector<double>& v) {
  std::vector<F> r(v.size());
  std::transform(v.begin(), v.end(), r.begin(), [](double x) { return static_cast<F>(x); });
  return r;
}

/// Coefficients that are linear in particles' contributions to a loss at one record: lambda = w (a + h (z - mean)).
struct record_pull {
  std::array<double, 6> a, mean;
  beam::matrix6 h;
  bool active = false;
};

}  // namespace

/// What both precisions share.
struct gradient::state {
  const beam::bunch& bunch;
  gradient_options options;
  lattice::sensitivity plan;
  unsigned threads;
  std::vector<moment_record> records{};
  std::vector<std::size_t> lost{};
  std::variant<std::shared_ptr<float[]>, std::shared_ptr<double[]>> final{};
  std::variant<std::vector<casualty<float>>, std::vector<casualty<double>>> casualties{};
  lattice::line line{};
  beam::reference start{};
  bool overwritten = false;  ///< the final coordinates are not there any more: states must be kept
};

namespace {

/// Everything that the passes of one precision work with.
template <class F>
class passes {
 public:
  passes(const lattice::sensitivity& plan, const beam::columns<const F>& particles, F* final)
      : plan_(plan), particles_(particles), final_(final) {}

  F* final_column(std::size_t c) const { return final_ + c * particles_.size; }

  /// Tracks all particles; records are sums, per record.
  void forward(unsigned threads, std::vector<beam::moment_sums>& records,
               std::vector<casualty<F>>& casualties) const {
    const std::vector<F> coefficients = narrowed<F>(plan_.forward.coefficients);
    const std::size_t count = plan_.forward.records.size();
    const std::size_t blocks = block_count(particles_.size);
    std::vector<std::vector<beam::moment_sums>> sums(blocks);
    std::vector<std::vector<casualty<F>>> dead(blocks);
    for_blocks(particles_.size, static_cast<double>(plan_.forward.operations.size()), threads, [&] {
      return [&, memory = std::make_unique<forward_memory>()](std::size_t b, std::size_t first,
                                                              std::size_t last) mutable {
        sums[b].resize(count);
        for (std::size_t i = first; i < last; i += tile_size) {
          forward_tile(coefficients.data(), i, std::min(tile_size, last - i), *memory,
                       sums[b].data(), dead[b]);
        }
      };
    });
    records.assign(count, {});
    for (std::size_t b = 0; b < blocks; ++b) {
      for (std::size_t i = 0; i < count; ++i) records[i].merge(sums[b][i]);
      casualties.insert(casualties.end(), dead[b].begin(), dead[b].end());
    }
    std::ranges::stable_sort(casualties, {}, &casualty<F>::index);
  }

  struct reverse_result {
    std::vector<double> sums;
    std::array<double, 6> error{}, extent{};
  };

  reverse_result reverse(unsigned threads, const std::vector<casualty<F>>& casualties,
                         const std::vector<record_pull>& records, const pull_request<F>& request,
                         bool keep_states) const {
    const reverse_pool pool(plan_);
    const std::vector<F> forward_coefficients = narrowed<F>(plan_.forward.coefficients);
    const std::size_t blocks = block_count(particles_.size);
    std::vector<reverse_result> of_block(blocks);
    for_blocks(particles_.size, 3 * static_cast<double>(plan_.backward.size()), threads, [&] {
      return [&, memory = std::make_unique<reverse_memory>(*this, keep_states)](
                 std::size_t b, std::size_t first, std::size_t last) mutable {
        std::vector<numerics::compensated_sum> sums(plan_.sums);
        for (std::size_t i = first; i < last; i += adjoint_tile_size) {
          memory->sums.assign(plan_.sums, 0.0);
          reverse_tile(pool, forward_coefficients.data(), i, std::min(adjoint_tile_size, last - i),
                       casualties, records, request, *memory, of_block[b]);
          for (std::size_t k = 0; k < sums.size(); ++k) sums[k].add(memory->sums[k]);
        }
        of_block[b].sums.resize(plan_.sums);
        for (std::size_t k = 0; k < sums.size(); ++k) of_block[b].sums[k] = sums[k].value();
      };
    });
    reverse_result r;
    std::vector<numerics::compensated_sum> sums(plan_.sums);
    for (const reverse_result& b : of_block) {
      for (std::size_t k = 0; k < sums.size(); ++k) sums[k].add(b.sums[k]);
      for (std::size_t c = 0; c < 6; ++c) {
        // not std::max, which would lose a NaN
        if (!(b.error[c] <= r.error[c])) r.error[c] = b.error[c];
        r.extent[c] = std::max(r.extent[c], b.extent[c]);
      }
    }
    for (const auto& s : sums) r.sums.push_back(s.value());
    return r;
  }

  /// The derivative of a loss along one direction of all coefficients, by forward mode.
  double along(unsigned threads, const std::vector<casualty<F>>& casualties,
               const std::vector<record_pull>& records, const pull_request<F>& request,
               const lattice::forward_tangents& tangents) const {
    const std::vector<double>& values = plan_.forward.coefficients;
    std::vector<F> duals(2 * values.size() + 4);
    for (std::size_t i = 0; i < values.size(); ++i) {
      duals[2 * i] = static_cast<F>(values[i]);
      duals[2 * i + 1] = static_cast<F>(tangents.coefficients[i]);
    }
    for (std::size_t i = 0; i < 2; ++i) {
      duals[2 * (values.size() + i)] = static_cast<F>(plan_.forward.entrance_energy[i]);
      duals[2 * (values.size() + i) + 1] = static_cast<F>(tangents.entrance_energy[i]);
    }
    std::vector<numerics::compensated_sum> sums(block_count(particles_.size));
    for_blocks(particles_.size, 3 * static_cast<double>(plan_.forward.operations.size()), threads,
               [&] {
                 return [&, memory = std::make_unique<reverse_memory>(*this, false)](
                            std::size_t b, std::size_t first, std::size_t last) mutable {
                   for (std::size_t i = first; i < last; i += adjoint_tile_size) {
                     sums[b].add(along_tile(duals.data(), i, std::min(adjoint_tile_size, last - i),
                                            casualties, records, request, *memory));
                   }
                 };
               });
    return numerics::merge(sums).value();
  }

 private:
  /// Coefficients of the reverse pass in this precision, with the dual ones of each direction.
  struct reverse_pool {
    std::vector<F> coefficients, duals;
    std::vector<adjoint_direction<F>> directions;

    explicit reverse_pool(const lattice::sensitivity& plan)
        : coefficients(narrowed<F>(plan.coefficients)) {
      std::vector<std::size_t> at;
      for (const reverse_operation& op : plan.backward) {
        for (std::uint32_t d = 0; d < op.directions; ++d) {
          const lattice::reverse_direction& from = plan.directions[op.first_direction + d];
          const std::size_t n = tangent_count(plan, op.first_direction + d);
          at.push_back(duals.size());
          for (std::size_t i = 0; i < n; ++i) {
            const std::size_t value = i + 2 < n ? op.coefficients + i : from.energy + i - (n - 2);
            duals.push_back(static_cast<F>(plan.coefficients[value]));
            duals.push_back(static_cast<F>(plan.tangents[from.tangents + i]));
          }
        }
      }
      for (std::size_t d = 0; d < plan.directions.size(); ++d) {
        const F* own = duals.data() + at[d];
        const std::size_t n = tangent_count(plan, d);
        directions.push_back({own, plan.directions[d].moves_energy ? own + 2 * (n - 2) : nullptr});
      }
    }

    static std::size_t tangent_count(const lattice::sensitivity& plan, std::size_t d) {
      const std::size_t end =
          d + 1 < plan.directions.size() ? plan.directions[d + 1].tangents : plan.tangents.size();
      return end - plan.directions[d].tangents;
    }
  };

  struct forward_memory {
    // a few cache lines between columns keep them apart modulo 4096 bytes
    static constexpr std::size_t stride = tile_size + 64 / sizeof(F);
    alignas(64) F energy[2][stride];
    alignas(64) F z[6][stride];
    std::uint32_t outside[tile_size];
    bool gone[tile_size];
  };

  struct reverse_memory {
    static constexpr std::size_t stride = adjoint_tile_size + 64 / sizeof(F);
    alignas(64) F column[16][stride];
    double weight[adjoint_tile_size];  // 0 of particles that are not in the beam
    std::uint32_t outside[adjoint_tile_size];
    std::vector<double> sums{};
    std::vector<F> scratch;
    // where states are kept
    std::size_t segment = 0;  // operations between two of `starts`
    std::vector<F> starts{}, states{};
    std::vector<std::uint32_t> energy{};  // coefficients in force at the starts

    reverse_memory(const passes& p, bool keep_states) {
      std::size_t most = 1;
      for (const reverse_operation& op : p.plan_.backward) {
        most = std::max<std::size_t>(most, op.directions);
      }
      scratch.resize(most * adjoint_kernels<F>().width);
      if (!keep_states) return;
      const std::size_t n = p.plan_.forward.operations.size();
      segment = std::max<std::size_t>(
          1, static_cast<std::size_t>(std::ceil(std::sqrt(static_cast<double>(n)))));
      starts.resize((n / segment + 1) * 6 * adjoint_tile_size);
      states.resize(segment * 6 * adjoint_tile_size);
      energy.resize(n / segment + 1);
    }
  };

  void forward_tile(const F* coefficients, std::size_t first, std::size_t count,
                    forward_memory& memory, beam::moment_sums* records,
                    std::vector<casualty<F>>& casualties) const {
    const kernel_table<F>& table = kernels<F>();
    const std::size_t padded = (count + table.width - 1) / table.width * table.width;
    tile<F> t{{}, memory.energy[0], memory.energy[1], padded, memory.outside};
    for (std::size_t c = 0; c < 6; ++c) {
      std::copy_n(particles_.z[c] + first, count, memory.z[c]);
      std::fill(memory.z[c] + count, memory.z[c] + padded, F(0));
      t.z[c] = memory.z[c];
    }
    std::fill_n(memory.gone, padded, false);
    const std::size_t dead_before = casualties.size();
    const auto& operations = plan_.forward.operations;
    auto collect = [&](std::size_t op) {
      for (std::size_t p = 0; p * table.width < padded; ++p) {
        for (std::uint32_t bits = t.outside[p]; bits != 0; bits &= bits - 1) {
          const std::size_t lane =
              p * table.width + static_cast<std::size_t>(std::countr_zero(bits));
          if (lane >= count || memory.gone[lane]) continue;
          memory.gone[lane] = true;
          casualty<F> dead{first + lane, op, true, {}};
          for (std::size_t c = 0; c < 6; ++c) {
            dead.z[c] = t.z[c][lane];
            dead.finite = dead.finite && std::isfinite(dead.z[c]);
            t.z[c][lane] = F(0);
          }
          t.inv_p[lane] = F(1);
          t.slip[lane] = F(0);
          casualties.push_back(dead);
        }
      }
    };
    const F energy[2] = {static_cast<F>(plan_.forward.entrance_energy[0]),
                         static_cast<F>(plan_.forward.entrance_energy[1])};
    table.refresh(energy, t);
    for (std::size_t i = 0; i < operations.size(); ++i) {
      const operation& op = operations[i];
      const F* own = coefficients + op.coefficients;
      if (op.code < map_count) [[likely]] {
        if (table.push[static_cast<std::size_t>(op.code)](own, t)) [[unlikely]]
          collect(i);
      } else if (op.code == operation::refresh) {
        table.refresh(own, t);
      } else {
        if (table.find_non_finite(t)) [[unlikely]]
          collect(i);
        records[op.coefficients].merge(
            sum(t, first, count, memory.gone, casualties.size() != dead_before));
      }
    }
    if (table.find_non_finite(t)) [[unlikely]]
      collect(operations.size());
    for (std::size_t k = dead_before; k < casualties.size(); ++k) {
      const casualty<F>& dead = casualties[k];
      for (std::size_t c = 0; c < 6; ++c) t.z[c][dead.index - first] = dead.z[c];
    }
    for (std::size_t c = 0; c < 6; ++c) std::copy_n(t.z[c], count, final_column(c) + first);
  }

  /// Sums over the particles of the tile that are still in the beam.
  beam::moment_sums sum(const tile<F>& t, std::size_t first, std::size_t count, const bool* gone,
                        bool any_gone) const {
    beam::columns<const F> view{{t.z[0], t.z[1], t.z[2], t.z[3], t.z[4], t.z[5]},
                                particles_.weight + first,
                                particles_.id + first,
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

  void reverse_tile(const reverse_pool& pool, const F* forward_coefficients, std::size_t first,
                    std::size_t count, const std::vector<casualty<F>>& all_casualties,
                    const std::vector<record_pull>& records, const pull_request<F>& request,
                    reverse_memory& memory, reverse_result& result) const {
    const adjoint_table<F>& table = adjoint_kernels<F>();
    const std::size_t padded = (count + table.width - 1) / table.width * table.width;
    adjoint_tile<F> t{};
    for (std::size_t c = 0; c < 6; ++c) {
      t.z[c] = memory.column[c];
      t.v[c] = memory.column[6 + c];
      std::fill_n(t.v[c], padded, F(0));
      std::copy_n(final_column(c) + first, count, t.z[c]);
      std::fill(t.z[c] + count, t.z[c] + padded, F(0));
    }
    t.inv_p = memory.column[12];
    t.slip = memory.column[13];
    t.inv_p_tangent = memory.column[14];
    t.slip_tangent = memory.column[15];
    t.count = padded;
    for (std::size_t c = 0; c < 6 && request.by_particles[0]; ++c) {
      // v_x = -lambda_px, v_px = lambda_x
      const F* lambda = request.by_particles[c ^ 1] + first;
      const F sign = c % 2 == 0 ? F(-1) : F(1);
      for (std::size_t i = 0; i < count; ++i) t.v[c][i] = sign * lambda[i];
    }
    std::fill_n(memory.weight, padded, 0.0);
    for (std::size_t i = 0; i < count; ++i) {
      memory.weight[i] = static_cast<double>(particles_.weight[first + i]);
    }

    // lost particles, the last to be lost first
    std::vector<const casualty<F>*> dead;
    const auto begin = std::ranges::lower_bound(all_casualties, first, {}, &casualty<F>::index);
    for (auto d = begin; d != all_casualties.end() && d->index < first + count; ++d) {
      dead.push_back(&*d);
      const std::size_t lane = d->index - first;
      for (std::size_t c = 0; c < 6; ++c) t.z[c][lane] = t.v[c][lane] = F(0);
      memory.weight[lane] = 0;
    }
    std::ranges::stable_sort(dead, std::ranges::greater{}, &casualty<F>::op);
    std::size_t revived = 0;

    // those that were lost in an operation behind `op`; with coordinates that are not finite they stay away
    auto revive_behind = [&](std::ptrdiff_t op) {
      bool any = false;
      for (; revived < dead.size() && static_cast<std::ptrdiff_t>(dead[revived]->op) > op;
           ++revived) {
        const casualty<F>& d = *dead[revived];
        if (!d.finite) continue;
        const std::size_t lane = d.index - first;
        for (std::size_t c = 0; c < 6; ++c) {
          t.z[c][lane] = d.z[c];
          t.v[c][lane] = F(0);
        }
        memory.weight[lane] = static_cast<double>(particles_.weight[d.index]);
        any = true;
      }
      return any;
    };

    std::size_t at_segment = static_cast<std::size_t>(-1);
    if (memory.segment != 0) {
      keep_starts(forward_coefficients, first, count, dead, memory);
      load_state(forward_coefficients, plan_.forward.operations.size() - 1, dead, first, memory,
                 at_segment, t);
    }

    const F exit_energy[2] = {static_cast<F>(plan_.exit_energy[0]),
                              static_cast<F>(plan_.exit_energy[1])};
    t.still = table.refresh(exit_energy, t);
    const F* energy = exit_energy;
    for (const reverse_operation& op : plan_.backward) {
      if (revived < dead.size() && revive_behind(op.forward)) [[unlikely]] {
        t.still = table.refresh(energy, t);
      }
      if (memory.segment != 0 && op.code != operation::refresh) {
        load_state(forward_coefficients, op.forward, dead, first, memory, at_segment, t);
      }
      const F* own = pool.coefficients.data() + op.coefficients;
      if (op.code < map_count) [[likely]] {
        const std::uint32_t n = op.directions;
        double inner[8];
        double* sums = inner;
        std::vector<double> many;
        if (n > 8) sums = (many.resize(n), many.data());
        std::fill_n(sums, n, 0.0);
        table.pull[static_cast<std::size_t>(op.code)](
            own, pool.directions.data() + op.first_direction, n, memory.scratch.data(), sums, t);
        for (std::uint32_t d = 0; d < n; ++d) {
          memory.sums[plan_.directions[op.first_direction + d].sum] += sums[d];
        }
      } else if (op.code == operation::refresh) {
        energy = own;
        t.still = table.refresh(own, t);
      } else if (op.code == operation::record) {
        if (records[op.coefficients].active) add_record(records[op.coefficients], memory.weight, t);
      } else {
        pull_matrix(op, forward_coefficients, first, dead, memory, at_segment, t);
      }
    }
    revive_behind(-1);
    finish(first, count, dead, request, memory, t, result);
  }

  double along_tile(const F* duals, std::size_t first, std::size_t count,
                    const std::vector<casualty<F>>& all_casualties,
                    const std::vector<record_pull>& records, const pull_request<F>& request,
                    reverse_memory& memory) const {
    const adjoint_table<F>& table = adjoint_kernels<F>();
    const std::size_t padded = (count + table.width - 1) / table.width * table.width;
    adjoint_tile<F> t{};  // v is the derivative of z here
    for (std::size_t c = 0; c < 6; ++c) {
      t.z[c] = memory.column[c];
      t.v[c] = memory.column[6 + c];
      std::fill_n(t.v[c], padded, F(0));
      std::copy_n(particles_.z[c] + first, count, t.z[c]);
      std::fill(t.z[c] + count, t.z[c] + padded, F(0));
    }
    t.count = padded;
    for (std::size_t i = 0; i < padded; ++i) {
      memory.weight[i] = i < count ? static_cast<double>(particles_.weight[first + i]) : 0;
    }
    const auto begin = std::ranges::lower_bound(all_casualties, first, {}, &casualty<F>::index);
    const auto end = std::ranges::lower_bound(begin, all_casualties.end(), first + count, {},
                                              &casualty<F>::index);
    double total = 0;
    const auto& operations = plan_.forward.operations;
    const F* energy = duals + 2 * plan_.forward.coefficients.size();
    for (std::size_t n = 0; n < operations.size(); ++n) {
      const operation& op = operations[n];
      for (auto d = begin; d != end; ++d) {
        // lost in a map: gone behind it; found by a record: gone before it is taken
        if (d->op + (op.code == operation::record ? 0 : 1) > n) continue;
        const std::size_t lane = d->index - first;
        for (std::size_t c = 0; c < 6; ++c) t.z[c][lane] = t.v[c][lane] = F(0);
        memory.weight[lane] = 0;
      }
      if (op.code < map_count) {
        const auto push = table.push[static_cast<std::size_t>(op.code)];
        if (push) push(duals + 2 * op.coefficients, energy, t);
      } else if (op.code == operation::refresh) {
        energy = duals + 2 * op.coefficients;
      } else if (records[op.coefficients].active) {
        const record_pull& r = records[op.coefficients];
        for (std::size_t i = 0; i < count; ++i) {
          for (std::size_t a = 0; a < 6; ++a) {
            double lambda = r.a[a];
            for (std::size_t k = 0; k < 6; ++k) {
              lambda += r.h[6 * a + k] * (static_cast<double>(t.z[k][i]) - r.mean[k]);
            }
            total += memory.weight[i] * lambda * static_cast<double>(t.v[a][i]);
          }
        }
      }
    }
    for (auto d = begin; d != end; ++d) memory.weight[d->index - first] = -1;  // lost
    for (std::size_t c = 0; c < 6 && request.by_particles[0]; ++c) {
      for (std::size_t i = 0; i < count; ++i) {
        if (memory.weight[i] < 0) continue;
        total += static_cast<double>(request.by_particles[c][first + i]) *
                 static_cast<double>(t.v[c][i]);
      }
    }
    return total;
  }

  /// lambda += w (a + h (z - mean)) for each particle.
  static void add_record(const record_pull& r, const double* weight, const adjoint_tile<F>& t) {
    for (std::size_t i = 0; i < t.count; ++i) {
      double d[6], lambda[6];
      for (std::size_t c = 0; c < 6; ++c) d[c] = static_cast<double>(t.z[c][i]) - r.mean[c];
      for (std::size_t c = 0; c < 6; ++c) {
        double s = r.a[c];
        for (std::size_t k = 0; k < 6; ++k) s += r.h[6 * c + k] * d[k];
        lambda[c] = weight[i] * s;
      }
      for (std::size_t c = 0; c < 6; c += 2) {
        t.v[c][i] -= static_cast<F>(lambda[c + 1]);
        t.v[c + 1][i] += static_cast<F>(lambda[c]);
      }
    }
  }

  /// The user's matrix: lambda_in = M^T lambda_out, whatever M is.
  void pull_matrix(const reverse_operation& op, const F* forward_coefficients, std::size_t first,
                   const std::vector<const casualty<F>*>& dead, reverse_memory& memory,
                   std::size_t& at_segment, const adjoint_tile<F>& t) const {
    const double* c = plan_.coefficients.data() + op.coefficients;
    const double *m = c, *offset = c + 36, *inverse = c + 42;
    std::vector<std::array<double, 6>> lambda(t.count);
    for (std::size_t i = 0; i < t.count; ++i) {
      for (std::size_t k = 0; k < 6; k += 2) {
        lambda[i][k] = static_cast<double>(t.v[k + 1][i]);
        lambda[i][k + 1] = -static_cast<double>(t.v[k][i]);
      }
    }
    if (memory.segment != 0) {
      load_state(forward_coefficients, static_cast<std::size_t>(op.forward) - 1, dead, first,
                 memory, at_segment, t);
    } else {
      for (std::size_t i = 0; i < t.count; ++i) {
        double z[6];
        for (std::size_t k = 0; k < 6; ++k) z[k] = static_cast<double>(t.z[k][i]) - offset[k];
        for (std::size_t k = 0; k < 6; ++k) {
          double sum = 0;
          for (std::size_t j = 0; j < 6; ++j) sum += inverse[6 * k + j] * z[j];
          t.z[k][i] = static_cast<F>(sum);
        }
      }
    }
    for (std::uint32_t d = 0; d < op.directions; ++d) {
      const lattice::reverse_direction& way = plan_.directions[op.first_direction + d];
      const double* dm = plan_.tangents.data() + way.tangents;
      double sum = 0;
      for (std::size_t i = 0; i < t.count; ++i) {
        for (std::size_t k = 0; k < 6; ++k) {
          double moved = dm[36 + k];
          for (std::size_t j = 0; j < 6; ++j)
            moved += dm[6 * k + j] * static_cast<double>(t.z[j][i]);
          sum += lambda[i][k] * moved;
        }
      }
      memory.sums[way.sum] += sum;
    }
    for (std::size_t i = 0; i < t.count; ++i) {
      double in[6] = {};
      for (std::size_t k = 0; k < 6; ++k) {
        for (std::size_t j = 0; j < 6; ++j) in[k] += m[6 * j + k] * lambda[i][j];
      }
      for (std::size_t k = 0; k < 6; k += 2) {
        t.v[k][i] = static_cast<F>(-in[k + 1]);
        t.v[k + 1][i] = static_cast<F>(in[k]);
      }
    }
  }

  /// One forward operation on the tile's coordinates, for keeping states.
  void forward_again(const F* coefficients, std::size_t i, std::size_t first,
                     const std::vector<const casualty<F>*>& dead, std::uint32_t& energy,
                     const tile<F>& t) const {
    const operation& op = plan_.forward.operations[i];
    const kernel_table<F>& table = kernels<F>();
    if (op.code < map_count) {
      table.push[static_cast<std::size_t>(op.code)](coefficients + op.coefficients, t);
    } else if (op.code == operation::refresh) {
      table.refresh(coefficients + op.coefficients, t);
      energy = op.coefficients;
    }
    for (const casualty<F>* d : dead) {
      if (d->op != i) continue;
      const std::size_t lane = d->index - first;
      for (std::size_t c = 0; c < 6; ++c) t.z[c][lane] = F(0);
      t.inv_p[lane] = F(1);
      t.slip[lane] = F(0);
    }
  }

  static constexpr std::uint32_t at_entrance = static_cast<std::uint32_t>(-1);

  void refresh(const F* coefficients, std::uint32_t energy, const tile<F>& t) const {
    const F entrance[2] = {static_cast<F>(plan_.forward.entrance_energy[0]),
                           static_cast<F>(plan_.forward.entrance_energy[1])};
    kernels<F>().refresh(energy == at_entrance ? entrance : coefficients + energy, t);
  }

  /// Tracks a tile from the initial beam and keeps its coordinates in front of each segment.
  void keep_starts(const F* coefficients, std::size_t first, std::size_t count,
                   const std::vector<const casualty<F>*>& dead, reverse_memory& memory) const {
    const std::size_t width = kernels<F>().width;
    const std::size_t padded = (count + width - 1) / width * width;
    tile<F> t{{}, memory.column[12], memory.column[13], padded, memory.outside};
    for (std::size_t c = 0; c < 6; ++c) {
      t.z[c] = memory.states.data() + c * adjoint_tile_size;
      std::copy_n(particles_.z[c] + first, count, t.z[c]);
      std::fill(t.z[c] + count, t.z[c] + padded, F(0));
    }
    std::uint32_t energy = at_entrance;
    refresh(coefficients, energy, t);
    for (std::size_t i = 0; i < plan_.forward.operations.size(); ++i) {
      if (i % memory.segment == 0) {
        F* to = memory.starts.data() + i / memory.segment * 6 * adjoint_tile_size;
        for (std::size_t c = 0; c < 6; ++c) std::copy_n(t.z[c], padded, to + c * adjoint_tile_size);
        memory.energy[i / memory.segment] = energy;
      }
      forward_again(coefficients, i, first, dead, energy, t);
    }
  }

  /// Sets the coordinates to those behind forward operation `op` (-1: at the start).
  void load_state(const F* coefficients, std::size_t op,
                  const std::vector<const casualty<F>*>& dead, std::size_t first,
                  reverse_memory& memory, std::size_t& at_segment,
                  const adjoint_tile<F>& to) const {
    if (op == static_cast<std::size_t>(-1)) return copy_state(memory.starts.data(), to);
    const std::size_t segment = op / memory.segment;
    if (segment != at_segment) {
      // states[k] is behind operation segment * length + k
      F* z = memory.states.data();
      alignas(64) F energy_columns[2][adjoint_tile_size];
      tile<F> t{{}, energy_columns[0], energy_columns[1], to.count, memory.outside};
      const F* from = memory.starts.data() + segment * 6 * adjoint_tile_size;
      std::uint32_t energy = memory.energy[segment];
      const std::size_t begin = segment * memory.segment;
      const std::size_t end = std::min(begin + memory.segment, plan_.forward.operations.size());
      for (std::size_t i = begin; i < end; ++i) {
        for (std::size_t c = 0; c < 6; ++c) {
          t.z[c] = z + ((i - begin) * 6 + c) * adjoint_tile_size;
          std::copy_n(from + c * adjoint_tile_size, to.count, t.z[c]);
        }
        if (i == begin) refresh(coefficients, energy, t);
        forward_again(coefficients, i, first, dead, energy, t);
        from = z + (i - begin) * 6 * adjoint_tile_size;
      }
      at_segment = segment;
    }
    copy_state(memory.states.data() + (op - segment * memory.segment) * 6 * adjoint_tile_size, to);
  }

  static void copy_state(const F* from, const adjoint_tile<F>& to) {
    for (std::size_t c = 0; c < 6; ++c) {
      std::copy_n(from + c * adjoint_tile_size, to.count, to.z[c]);
    }
  }

  /// The results of a tile, and how far it is from where it began.
  void finish(std::size_t first, std::size_t count, const std::vector<const casualty<F>*>& dead,
              const pull_request<F>& request, const reverse_memory& memory,
              const adjoint_tile<F>& t, reverse_result& result) const {
    std::vector<bool> unknown(dead.empty() ? 0 : count);
    for (const casualty<F>* d : dead) {
      if (!d->finite) unknown[d->index - first] = true;
    }
    for (std::size_t c = 0; c < 6; ++c) {
      for (std::size_t i = 0; i < count; ++i) {
        if (!unknown.empty() && unknown[i]) continue;
        const double start = static_cast<double>(particles_.z[c][first + i]);
        const double off = std::fabs(static_cast<double>(t.z[c][i]) - start);
        if (memory.segment == 0 && !(off <= result.error[c])) result.error[c] = off;
        result.extent[c] = std::max(result.extent[c], std::fabs(start));
      }
      if (!request.initial[0]) continue;
      const F sign = c % 2 == 0 ? F(1) : F(-1);  // lambda_x = v_px, lambda_px = -v_x
      for (std::size_t i = 0; i < count; ++i) {
        request.initial[c][first + i] = sign * t.v[c ^ 1][i];
      }
    }
  }

  const lattice::sensitivity& plan_;
  const beam::columns<const F>& particles_;
  F* final_;
};

/// What a loss's dependence on moments means for each particle: d mean_a = w dz_a/W, d cov_ab = w ((z_b - mean_b)
/// dz_a + (z_a - mean_a) dz_b)/W.
std::vector<record_pull> pulls_of(std::span<const moment_derivative> derivatives,
                                  const std::vector<moment_record>& records) {
  std::vector<record_pull> r(records.size());
  if (derivatives.empty()) return r;
  if (derivatives.size() != records.size()) {
    throw std::invalid_argument("derivatives by the moments of " +
                                std::to_string(derivatives.size()) + " records; there are " +
                                std::to_string(records.size()));
  }
  for (std::size_t i = 0; i < r.size(); ++i) {
    const moment_derivative& d = derivatives[i];
    auto nonzero = [](double x) { return x != 0; };
    r[i].active =
        std::ranges::any_of(d.mean, nonzero) || std::ranges::any_of(d.covariance, nonzero);
    if (!r[i].active) continue;
    const double inverse_weight = 1 / records[i].moments.weight;
    r[i].mean = records[i].moments.mean;
    for (std::size_t a = 0; a < 6; ++a) {
      r[i].a[a] = d.mean[a] * inverse_weight;
      for (std::size_t b = 0; b < 6; ++b) {
        r[i].h[6 * a + b] = (d.covariance[6 * a + b] + d.covariance[6 * b + a]) * inverse_weight;
      }
    }
  }
  return r;
}

}  // namespace

gradient::gradient(const lattice::line& l, const beam::bunch& b, gradient_options options) {
  check_flags("record", options.recorded, l);
  lattice::sensitivity_options wanted;
  wanted.knobs = options.knobs;
  wanted.reference_energy = options.reference_energy;
  wanted.recorded = options.recorded;
  wanted.record_start = options.record_start;
  wanted.record_end = true;
  auto plan = lattice::differentiate(l, b.ref, wanted);
  const unsigned threads = options.threads != 0 ? options.threads : available_threads();
  state_ = std::make_unique<state>(state{b, std::move(options), std::move(plan), threads});
  state_->line = l;
  state_->start = b.ref;
  state& s = *state_;
  b.visit([&]<class F>(const beam::columns<const F>& columns) {
    auto final = std::make_shared_for_overwrite<F[]>(6 * columns.size);
    std::vector<casualty<F>> casualties;
    std::vector<beam::moment_sums> sums;
    passes<F>(s.plan, columns, final.get()).forward(threads, sums, casualties);
    for (std::size_t i = 0; i < sums.size(); ++i) {
      const lattice::record_point& at = s.plan.forward.records[i];
      s.records.push_back({0, at.element, at.slice, at.ref, beam::finish(sums[i])});
    }
    for (const auto& d : casualties) s.lost.push_back(d.index);
    s.final = std::move(final);
    s.casualties = std::move(casualties);
  });
}

gradient::~gradient() = default;
gradient::gradient(gradient&&) noexcept = default;
gradient& gradient::operator=(gradient&&) noexcept = default;

const std::vector<moment_record>& gradient::records() const { return state_->records; }
const std::vector<std::size_t>& gradient::lost() const { return state_->lost; }

template <class F>
std::shared_ptr<F[]> gradient::final_coordinates() const {
  const auto* final = std::get_if<std::shared_ptr<F[]>>(&state_->final);
  if (!final) throw std::logic_error("the beam has the other precision");
  return *final;
}

std::size_t gradient::memory() const {
  return state_->bunch.visit([&]<class F>(const beam::columns<const F>& columns) {
    const auto& dead = std::get<std::vector<casualty<F>>>(state_->casualties);
    return 6 * columns.size * sizeof(F) + dead.size() * sizeof(casualty<F>) +
           state_->plan.sums * block_count(columns.size) * sizeof(double);
  });
}

template <class F>
pull_result gradient::pull(const pull_request<F>& request) const {
  const state& s = *state_;
  const std::vector<record_pull> records = pulls_of(request.by_moments, s.records);
  const F* final = final_coordinates<F>().get();
  const auto& casualties = std::get<std::vector<casualty<F>>>(s.casualties);
  bool keep_states = request.strategy == reverse_strategy::checkpoint || state_->overwritten;
  if (s.plan.needs_states && !keep_states) {
    if (request.strategy == reverse_strategy::rewind) {
      throw std::invalid_argument(
          "the line has a singular matrix, which cannot be rewound; allowed: strategy checkpoint");
    }
    keep_states = true;
  }
  const double tolerance = request.tolerance > 0 ? request.tolerance : sizeof(F) == 8 ? 1e-8 : 1e-3;
  pull_result result;
  for (;;) {
    typename passes<F>::reverse_result r;
    s.bunch.visit([&](const auto& columns) {
      if constexpr (std::is_same_v<std::remove_cvref_t<decltype(columns)>,
                                   beam::columns<const F>>) {
        r = passes<F>(s.plan, columns, const_cast<F*>(final))
                .reverse(s.threads, casualties, records, request, keep_states);
      }
    });
    state_->overwritten = state_->overwritten || request.initial[0] == final;
    double largest = 0, error[2] = {}, extent[2] = {};
    for (std::size_t c = 0; c < 6; ++c) {  // lengths, and momenta
      if (!(r.error[c] <= error[c % 2])) error[c % 2] = r.error[c];
      const beam::moments& end = s.records.back().moments;
      const double final_extent = std::fmax(std::fabs(end.min[c]), std::fabs(end.max[c]));
      extent[c % 2] = std::fmax(std::max(extent[c % 2], r.extent[c]), final_extent);
    }
    for (std::size_t k = 0; k < 2; ++k) {
      if (error[k] == 0) continue;
      const double relative = error[k] / extent[k];
      if (!(relative <= largest)) largest = relative;
    }
    if (!keep_states) {
      result.rewind_error = r.error;
      result.relative_rewind_error = largest;
    }
    if (!keep_states && !(largest <= tolerance)) {
      if (request.strategy == reverse_strategy::rewind) {
        throw std::runtime_error("the rewound beam is off by " + std::to_string(largest) +
                                 " of its extent; allowed: tolerance = " +
                                 std::to_string(tolerance) + ", or strategy checkpoint");
      }
      keep_states = true;
      continue;
    }
    result.checkpointed = keep_states;
    std::vector<double> by_kinetic;
    for (const moment_derivative& d : request.by_moments) by_kinetic.push_back(d.kinetic);
    auto collected = s.plan.collect(r.sums, by_kinetic, s.options.knobs.size());
    result.knobs = std::move(collected.knobs);
    result.kinetic = collected.kinetic;
    return result;
  }
}

template <class F>
double gradient::push(const pull_request<F>& request, std::ptrdiff_t knob) const {
  const state& s = *state_;
  if (knob < -1 || knob >= static_cast<std::ptrdiff_t>(s.options.knobs.size())) {
    throw std::invalid_argument("there is no knob number " + std::to_string(knob));
  }
  lattice::sensitivity_options wanted;
  wanted.knobs = s.options.knobs;
  wanted.recorded = s.options.recorded;
  wanted.record_start = s.options.record_start;
  wanted.record_end = true;
  const lattice::forward_tangents tangents =
      lattice::differentiate_forward(s.line, s.start, wanted, knob);
  const std::vector<record_pull> records = pulls_of(request.by_moments, s.records);
  double total = s.bunch.visit([&](const auto& columns) {
    if constexpr (std::is_same_v<std::remove_cvref_t<decltype(columns)>, beam::columns<const F>>) {
      return passes<F>(s.plan, columns, nullptr)
          .along(s.threads, std::get<std::vector<casualty<F>>>(s.casualties), records, request,
                 tangents);
    } else {
      return 0.0;
    }
  });
  for (std::size_t i = 0; i < request.by_moments.size(); ++i) {
    total += request.by_moments[i].kinetic * tangents.kinetic[i];
  }
  return total;
}

template std::shared_ptr<float[]> gradient::final_coordinates() const;
template std::shared_ptr<double[]> gradient::final_coordinates() const;
template pull_result gradient::pull(const pull_request<float>&) const;
template pull_result gradient::pull(const pull_request<double>&) const;
template double gradient::push(const pull_request<float>&, std::ptrdiff_t) const;
template double gradient::push(const pull_request<double>&, std::ptrdiff_t) const;

}  // namespace betatron::tracking
