// reverse_pass.h: takes particles from the end of a section to its start with the derivative of a loss by their
// coordinates, and adds up what they contribute to derivatives by coefficients; see adjoint_table.h.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "lattice/sensitivity.h"
#include "numerics/reduction.h"
#include "tracking/cpu/adjoint_table.h"
#include "tracking/cpu/forward_pass.h"
#include "tracking/cpu/kept_states.h"
#include "tracking/cpu/reverse_pool.h"
#include "tracking/record_pull.h"
#include "tracking/section.h"

namespace betatron::tracking {

static_assert(tile_size % adjoint_tile_size == 0);

template <class F>
class reverse_pass {
 public:
  using particles = beam::columns<const F>;
  using operation = lattice::operation;
  using reverse_operation = lattice::reverse_operation;

  /// `pass` must live as long as this.
  explicit reverse_pass(const forward_pass<F>& pass) : pass_(pass), plan_(pass.plan()) {}

  struct reverse_result {
    std::vector<double> sums;
    std::array<double, 6> error{}, squares{};  ///< the largest, and the sum of the squares of all
  };

  /// One section backward.
  struct reverse_request {
    const section* part = nullptr;
    const reverse_pool<F>* pool = nullptr;
    std::span<const casualty<F>> casualties{};
    std::span<const record_pull> records{};     ///< of the whole line
    const std::vector<F>* entrances = nullptr;  ///< coordinates at calls of code
    particles start{};  ///< at the start of the section: what is rewound to, or tracked again
    std::array<const F*, 6> end{};     ///< coordinates at its end
    std::array<const F*, 6> by_end{};  ///< derivatives by them; null: none
    std::array<F*, 6> rewound{};       ///< out: coordinates at the start; null: not wanted
    std::array<F*, 6> by_start{};      ///< out: derivatives by them; null: not wanted
    bool keep_states = false;
  };

  reverse_result run(unsigned threads, const reverse_request& request) const {
    const std::size_t size = request.start.size;
    const section& part = *request.part;
    std::vector<reverse_result> of_block(block_count(size));
    for_blocks(
        size, 3 * static_cast<double>(part.last_backward - part.first_backward), threads,
        [&] { return std::make_unique<workspace>(pass_, request); },
        [&](auto& memory, std::size_t b, std::size_t first, std::size_t last) {
          std::vector<numerics::compensated_sum> sums(plan_.sums);
          for (std::size_t i = first; i < last; i += adjoint_tile_size) {
            memory->sums.assign(plan_.sums, 0.0);
            run_tile(request, i, std::min(adjoint_tile_size, last - i), *memory, of_block[b]);
            for (std::size_t k = 0; k < sums.size(); ++k) sums[k].add(memory->sums[k]);
          }
          for (const auto& sum : sums) of_block[b].sums.push_back(sum.value());
        });
    reverse_result r;
    std::vector<numerics::compensated_sum> sums(plan_.sums);
    for (const reverse_result& b : of_block) {
      for (std::size_t k = 0; k < sums.size(); ++k) sums[k].add(b.sums[k]);
      for (std::size_t c = 0; c < 6; ++c) {
        // not std::max, which would lose a NaN
        if (!(b.error[c] <= r.error[c])) r.error[c] = b.error[c];
        r.squares[c] += b.squares[c];
      }
    }
    for (const auto& s : sums) r.sums.push_back(s.value());
    return r;
  }

 private:
  struct workspace {
    static constexpr std::size_t stride = adjoint_tile_size + 64 / sizeof(F);
    alignas(64) F column[16][stride];
    alignas(64) F mark[2][stride], by_mark[2][stride];  // of steps that radiate
    double weight[adjoint_tile_size];                   // 0 of particles that are not in the beam
    std::vector<double> sums{};
    std::vector<F> scratch{}, pushed{};
    std::optional<kept_states<F>> kept{};  // empty: the beam is rewound
    code_memory code;

    workspace(const forward_pass<F>& pass, const reverse_request& request) {
      scratch.resize(most_directions(pass.plan()) * adjoint_kernels<F>().width);
      if (request.keep_states) kept.emplace(pass, *request.part);
    }
  };

  void run_tile(const reverse_request& request, std::size_t first, std::size_t count,
                workspace& memory, reverse_result& result) const {
    const reverse_pool<F>& pool = *request.pool;
    const section& part = *request.part;
    const particles& start = request.start;
    const adjoint_table<F>& table = adjoint_kernels<F>();
    const std::size_t padded = (count + table.width - 1) / table.width * table.width;
    adjoint_tile<F> t{};
    for (std::size_t c = 0; c < 6; ++c) {
      t.z[c] = memory.column[c];
      t.v[c] = memory.column[6 + c];
      std::fill_n(t.v[c], padded, F(0));
      std::copy_n(request.end[c] + first, count, t.z[c]);
      std::fill(t.z[c] + count, t.z[c] + padded, F(0));
    }
    t.inv_p = memory.column[12];
    t.slip = memory.column[13];
    t.inv_p_tangent = memory.column[14];
    t.slip_tangent = memory.column[15];
    t.count = padded;
    if (plan_.forward.radiation) {
      for (F* column : memory.by_mark) std::fill_n(column, padded, F(0));
    }
    for (std::size_t c = 0; c < 6 && request.by_end[0]; ++c) {
      // v_x = -lambda_px, v_px = lambda_x
      const F* lambda = request.by_end[c ^ 1] + first;
      const F sign = c % 2 == 0 ? F(-1) : F(1);
      for (std::size_t i = 0; i < count; ++i) t.v[c][i] = sign * lambda[i];
    }
    std::fill_n(memory.weight, padded, 0.0);
    for (std::size_t i = 0; i < count; ++i) {
      memory.weight[i] = static_cast<double>(start.weight[first + i]);
    }

    const auto dead = lost_in(request.casualties, first, count);
    std::size_t revived = 0;

    // On its way to be lost a particle may be where maps, code and radiation have no derivative: it goes beside one
    // that is not lost, with v = 0, and so do the lanes that fill up the last pack.
    std::size_t alive = first_alive(dead, first, count);
    auto put_away = [&](std::span<F* const> more = {}) {
      const auto leave = [&](std::size_t lane) {
        const auto go = [&](F* column) { column[lane] = alive < count ? column[alive] : F(0); };
        for (std::size_t c = 0; c < 6; ++c) {
          go(t.z[c]);
          t.v[c][lane] = F(0);
        }
        for (F* column : more) go(column);
      };
      for (std::size_t k = revived; k < dead.size(); ++k) leave(dead[k]->index - first);
      for (std::size_t lane = count; lane < padded; ++lane) leave(lane);
    };
    put_away();
    for (const casualty<F>* d : dead) memory.weight[d->index - first] = 0;

    auto revive = [&](std::ptrdiff_t op) {
      const std::size_t before = revived;
      for (; revived < dead.size() && dead[revived]->is_back(op); ++revived) {
        const casualty<F>& d = *dead[revived];
        const std::size_t lane = d.index - first;
        for (std::size_t c = 0; c < 6; ++c) {
          t.z[c][lane] = d.seen_at[c];
          t.v[c][lane] = F(0);
        }
        memory.weight[lane] = static_cast<double>(start.weight[d.index]);
        alive = std::min(alive, lane);
      }
      if (revived == before) return false;
      put_away();
      return true;
    };
    auto load = [&](std::size_t op) {
      memory.kept->load(op, t);
      put_away();
    };

    if (memory.kept) {
      memory.kept->track(request.start, first, count, dead);
      load(part.last);
    }

    const F exit_energy[2] = {static_cast<F>(part.exit[0]), static_cast<F>(part.exit[1])};
    t.still = table.refresh(exit_energy, t);
    const F* energy = exit_energy;
    for (std::size_t i = part.first_backward; i < part.last_backward; ++i) {
      const reverse_operation& op = plan_.backward[i];
      if (revived < dead.size() && revive(op.forward)) [[unlikely]] {
        t.still = table.refresh(energy, t);
      }
      if (alive == count && op.code != operation::refresh) continue;
      if (memory.kept && op.code != operation::refresh) {
        const bool in_front = op.from_front || op.code == reverse_operation::matrix;
        load(in_front ? op.forward : op.forward + 1);
      }
      const F* own = pool.coefficients.data() + op.coefficients;
      if (op.code < operation::map_count) [[likely]] {
        along_directions(op, memory, [&](double* sums) {
          table.pull[static_cast<std::size_t>(op.code)](
              own, pool.directions.data() + op.first_direction, op.directions,
              memory.scratch.data(), sums, t);
        });
        if (op.from_front) load(op.forward);
      } else if (op.code == operation::refresh) {
        energy = own;
        t.still = table.refresh(own, t);
      } else if (op.code == reverse_operation::call) {
        pull_call(op, request, first, count, memory, t);
        put_away();
      } else if (op.code == operation::radiate) {
        const auto step = memory.kept->load_radiated(op.forward, padded);
        for (std::size_t k = 0; k < 2; ++k) std::copy_n(step.mark[k], padded, memory.mark[k]);
        put_away(std::array<F*, 2>{memory.mark[0], memory.mark[1]});
        along_directions(op, memory, [&](double* sums) {
          table.radiate(own, pool.directions.data() + op.first_direction, op.directions,
                        memory.scratch.data(), sums,
                        {{memory.mark[0], memory.mark[1]},
                         step.noise,
                         {memory.by_mark[0], memory.by_mark[1]}},
                        t);
        });
      } else if (op.code == operation::mark) {
        pull_mark(op, *own, memory, t);
      } else if (op.code == operation::record) {
        const record_pull& record = request.records[op.coefficients];
        if (record.active) add_record(record, memory.weight, t);
      } else if (op.code >= reverse_operation::pushed) {
        pull_pushed(op, pool, memory, t);
      } else {
        pull_matrix(op, memory, t);
      }
    }
    revive(casualty<F>::at_start);
    finish(request, first, count, memory, t, result);
  }

  /// Calls pull(sums), which adds what the particles contribute along each direction of an operation.
  template <class Pull>
  void along_directions(const reverse_operation& op, workspace& memory, Pull&& pull) const {
    const std::uint32_t n = op.directions;
    double inner[8];
    double* sums = inner;
    std::vector<double> many;
    if (n > 8) sums = (many.resize(n), many.data());
    std::fill_n(sums, n, 0.0);
    pull(sums);
    for (std::uint32_t d = 0; d < n; ++d) {
      memory.sums[plan_.directions[op.first_direction + d].sum] += sums[d];
    }
  }

  /// elements::radiation_mark: px + y h and py - x h were marked, whose derivatives are known by now.
  void pull_mark(const reverse_operation& op, F half_ks, workspace& memory,
                 const adjoint_tile<F>& t) const {
    F *const by_px = memory.by_mark[0], *const by_py = memory.by_mark[1];
    for (std::uint32_t d = 0; d < op.directions; ++d) {
      const lattice::reverse_direction& way = plan_.directions[op.first_direction + d];
      const double slope = plan_.tangents[way.tangents];
      double sum = 0;
      for (std::size_t i = 0; i < t.count && slope != 0; ++i) {
        sum += static_cast<double>(by_px[i] * t.z[2][i] - by_py[i] * t.z[0][i]);
      }
      memory.sums[way.sum] += slope * sum;
    }
    for (std::size_t i = 0; i < t.count; ++i) {
      t.v[0][i] -= by_px[i];
      t.v[1][i] -= half_ks * by_py[i];
      t.v[2][i] -= by_py[i];
      t.v[3][i] += half_ks * by_px[i];
      by_px[i] = by_py[i] = F(0);
    }
  }

  /// lambda += w (a + h (z - mean)) for each particle.
  static void add_record(const record_pull& r, const double* weight, const adjoint_tile<F>& t) {
    for (std::size_t i = 0; i < t.count; ++i) {
      double d[6];
      for (std::size_t c = 0; c < 6; ++c) d[c] = static_cast<double>(t.z[c][i]) - r.mean[c];
      for (std::size_t c = 0; c < 6; c += 2) {
        t.v[c][i] -= static_cast<F>(weight[i] * r.slope(c + 1, d));
        t.v[c + 1][i] += static_cast<F>(weight[i] * r.slope(c, d));
      }
    }
  }

  /// Tile code: its own pull, at the coordinates that were kept.
  void pull_call(const reverse_operation& op, const reverse_request& request, std::size_t first,
                 std::size_t count, workspace& memory, const adjoint_tile<F>& t) const {
    const elements::code_call& c = plan_.forward.calls[op.coefficients];
    const F* kept = request.entrances[op.coefficients].data() + first;
    for (std::size_t k = 0; k < 6; ++k) {
      std::copy_n(kept + k * request.start.size, count, t.z[k]);
      std::fill(t.z[k] + count, t.z[k] + t.count, F(0));
    }
    const auto view = view_of(t.z, t.count, request.start.weight + first, request.start.id + first,
                              count, memory.code);
    F* lambda[6];  // lambda_x = v_px, lambda_px = -v_x
    for (std::size_t k = 0; k < 6; ++k) {
      lambda[k] = t.v[k ^ 1];
      if (k % 2 == 1) std::transform(lambda[k], lambda[k] + t.count, lambda[k], std::negate<>());
    }
    pull_code(*c.tiles, pass_.place_of(c, plan_.forward.operations[op.forward]), view, lambda,
              memory.code);
    for (std::size_t k = 1; k < 6; k += 2) {
      std::transform(lambda[k], lambda[k] + t.count, lambda[k], std::negate<>());
    }
  }

  /// A map without inverse, at the coordinates in front of it: lambda_in = J^T lambda_out, by tangents along each
  /// coordinate that are pushed through it.
  void pull_pushed(const reverse_operation& op, const reverse_pool<F>& pool, workspace& memory,
                   const adjoint_tile<F>& t) const {
    constexpr std::size_t stride = workspace::stride;
    memory.pushed.resize(12 * stride);
    adjoint_tile<F> there = t;
    for (std::size_t c = 0; c < 6; ++c) {
      there.z[c] = memory.pushed.data() + c * stride;
      there.v[c] = memory.pushed.data() + (6 + c) * stride;
    }
    // of lambda with what becomes of a tangent along one coordinate, or along none
    const auto products = [&](std::uint32_t direction, std::size_t along, auto&& take) {
      for (std::size_t c = 0; c < 6; ++c) {
        std::copy_n(t.z[c], t.count, there.z[c]);
        std::fill_n(there.v[c], t.count, c == along ? F(1) : F(0));
      }
      const std::size_t number = op.first_direction + direction;
      const F* own = pool.directions[number].coefficients;
      const std::size_t end = number + 1 < plan_.directions.size()
                                  ? plan_.directions[number + 1].tangents
                                  : plan_.tangents.size();
      const F* energy = own + 2 * (end - 4 - plan_.directions[number].tangents);
      adjoint_kernels<F>().push[static_cast<std::size_t>(op.code - reverse_operation::pushed)](
          own, energy, there);
      for (std::size_t i = 0; i < t.count; ++i) {
        double sum = 0;
        for (std::size_t c = 0; c < 6; ++c) {  // lambda_x = v_px, lambda_px = -v_x
          const double product =
              static_cast<double>(t.v[c ^ 1][i]) * static_cast<double>(there.v[c][i]);
          sum += c % 2 == 0 ? product : -product;
        }
        take(i, sum);
      }
    };
    constexpr std::size_t none = 6;
    for (std::uint32_t d = 1; d < op.directions; ++d) {
      double& sum = memory.sums[plan_.directions[op.first_direction + d].sum];
      products(d, none, [&](std::size_t, double product) { sum += product; });
    }
    std::vector<std::array<double, 6>> in(t.count);
    for (std::size_t k = 0; k < 6; ++k) {
      products(0, k, [&](std::size_t i, double product) { in[i][k] = product; });
    }
    for (std::size_t i = 0; i < t.count; ++i) {
      for (std::size_t k = 0; k < 6; k += 2) {
        t.v[k][i] = static_cast<F>(-in[i][k + 1]);
        t.v[k + 1][i] = static_cast<F>(in[i][k]);
      }
    }
  }

  /// The user's matrix: lambda_in = M^T lambda_out, whatever M is.
  void pull_matrix(const reverse_operation& op, workspace& memory, const adjoint_tile<F>& t) const {
    const double* c = plan_.coefficients.data() + op.coefficients;
    const double *m = c, *offset = c + 36, *inverse = c + 42;
    std::vector<std::array<double, 6>> lambda(t.count);
    for (std::size_t i = 0; i < t.count; ++i) {
      for (std::size_t k = 0; k < 6; k += 2) {
        lambda[i][k] = static_cast<double>(t.v[k + 1][i]);
        lambda[i][k + 1] = -static_cast<double>(t.v[k][i]);
      }
    }
    for (std::size_t i = 0; i < t.count && !memory.kept; ++i) {
      double z[6];
      for (std::size_t k = 0; k < 6; ++k) z[k] = static_cast<double>(t.z[k][i]) - offset[k];
      for (std::size_t k = 0; k < 6; ++k) {
        double sum = 0;
        for (std::size_t j = 0; j < 6; ++j) sum += inverse[6 * k + j] * z[j];
        t.z[k][i] = static_cast<F>(sum);
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

  /// The results of a tile, and how far it is from where it began.
  void finish(const reverse_request& request, std::size_t first, std::size_t count,
              const workspace& memory, const adjoint_tile<F>& t, reverse_result& result) const {
    for (std::size_t c = 0; c < 6; ++c) {
      if (request.rewound[0]) std::copy_n(t.z[c], count, request.rewound[c] + first);
      if (request.start.z[0] && !memory.kept) {
        double error = result.error[c], squares = 0;
        for (std::size_t i = 0; i < count; ++i) {
          const double began = static_cast<double>(request.start.z[c][first + i]);
          if (!std::isfinite(began)) continue;
          const double off = std::fabs(static_cast<double>(t.z[c][i]) - began);
          if (!(off <= error)) error = off;
          squares += off * off;
        }
        result.error[c] = error;
        result.squares[c] += squares;
      }
      if (!request.by_start[0]) continue;
      const F sign = c % 2 == 0 ? F(1) : F(-1);  // lambda_x = v_px, lambda_px = -v_x
      for (std::size_t i = 0; i < count; ++i) {
        request.by_start[c][first + i] = sign * t.v[c ^ 1][i];
      }
    }
  }

  const forward_pass<F>& pass_;
  const lattice::sensitivity& plan_;
};

}  // namespace betatron::tracking
