// forward_mode.h: particles that carry along how they change in one direction of all coefficients,
// and what that means for a loss.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <span>
#include <stdexcept>
#include <vector>

#include "lattice/sensitivity.h"
#include "numerics/reduction.h"
#include "tracking/cpu/adjoint_table.h"
#include "tracking/cpu/blocks.h"
#include "tracking/cpu/forward_pass.h"
#include "tracking/gradient.h"
#include "tracking/record_pull.h"
#include "tracking/section.h"

namespace betatron::tracking {

template <class F>
class forward_mode {
 public:
  using particles = beam::columns<const F>;
  using operation = lattice::operation;

  /// Rates of the coefficients of the program, of its energy at the entrance, and of the
  /// coordinates there (null: 0).
  struct direction {
    std::span<const double> coefficients;
    std::array<double, 2> entrance_energy;
    std::array<const F*, 6> start{};
  };

  /// Particles [first, first + count) on their way: z, and in v its rates, of which the first
  /// `count` entries count.
  struct moving {
    const adjoint_tile<F>& tile;
    const double* weight;  ///< 0 of particles that are not in the beam any more, at the end -1
    std::size_t first, count;
  };

  /// The plan must live as long as this.
  explicit forward_mode(const lattice::sensitivity& plan) : plan_(plan) {}

  /// Takes particles through the line. at_record(block, number of the record, moving) and
  /// at_end(block, moving) are called for each tile, those of a block one after the other.
  template <class AtRecord, class AtEnd>
  void push(unsigned threads, const particles& from, const std::vector<casualty<F>>& casualties,
            const direction& along, AtRecord&& at_record, AtEnd&& at_end) const {
    const std::vector<double>& values = plan_.forward.coefficients;
    std::vector<F> duals(2 * values.size() + 4);
    for (std::size_t i = 0; i < values.size(); ++i) {
      duals[2 * i] = static_cast<F>(values[i]);
      duals[2 * i + 1] = static_cast<F>(along.coefficients[i]);
    }
    for (std::size_t i = 0; i < 2; ++i) {
      duals[2 * (values.size() + i)] = static_cast<F>(plan_.forward.entrance_energy[i]);
      duals[2 * (values.size() + i) + 1] = static_cast<F>(along.entrance_energy[i]);
    }
    for_blocks(
        from.size, 3 * static_cast<double>(plan_.forward.operations.size()), threads,
        [] { return std::make_unique<workspace>(); },
        [&](auto& memory, std::size_t b, std::size_t first, std::size_t last) {
          for (std::size_t i = first; i < last; i += adjoint_tile_size) {
            push_tile(
                duals.data(), from, along.start, i, std::min(adjoint_tile_size, last - i),
                casualties, *memory,
                [&](std::size_t number, const moving& m) { at_record(b, number, m); },
                [&](const moving& m) { at_end(b, m); });
          }
        });
  }

  /// The derivative of a loss along one direction of all coefficients.
  double run(unsigned threads, const particles& from, const std::vector<casualty<F>>& casualties,
             const std::vector<record_pull>& records, const pull_request<F>& request,
             const lattice::forward_tangents& tangents) const {
    std::vector<numerics::compensated_sum> sums(block_count(from.size));
    push(
        threads, from, casualties, {tangents.coefficients, tangents.entrance_energy},
        [&](std::size_t block, std::size_t number, const moving& m) {
          const record_pull& r = records[number];
          double total = 0;
          for (std::size_t i = 0; r.active && i < m.count; ++i) {
            double d[6];
            for (std::size_t c = 0; c < 6; ++c) {
              d[c] = static_cast<double>(m.tile.z[c][i]) - r.mean[c];
            }
            for (std::size_t c = 0; c < 6; ++c) {
              total += m.weight[i] * r.slope(c, d) * static_cast<double>(m.tile.v[c][i]);
            }
          }
          sums[block].add(total);
        },
        [&](std::size_t block, const moving& m) {
          double total = 0;
          for (std::size_t c = 0; c < 6 && request.by_particles[0]; ++c) {
            for (std::size_t i = 0; i < m.count; ++i) {
              if (m.weight[i] < 0) continue;
              total += static_cast<double>(request.by_particles[c][m.first + i]) *
                       static_cast<double>(m.tile.v[c][i]);
            }
          }
          sums[block].add(total);
        });
    return numerics::merge(sums).value();
  }

 private:
  struct workspace {
    static constexpr std::size_t stride = adjoint_tile_size + 64 / sizeof(F);
    alignas(64) F column[12][stride];
    double weight[adjoint_tile_size];
  };

  template <class AtRecord, class AtEnd>
  void push_tile(const F* duals, const particles& from, const std::array<const F*, 6>& start,
                 std::size_t first, std::size_t count,
                 const std::vector<casualty<F>>& all_casualties, workspace& memory,
                 AtRecord&& at_record, AtEnd&& at_end) const {
    const adjoint_table<F>& table = adjoint_kernels<F>();
    const std::size_t padded = (count + table.width - 1) / table.width * table.width;
    adjoint_tile<F> t{};  // v is the derivative of z here
    for (std::size_t c = 0; c < 6; ++c) {
      t.z[c] = memory.column[c];
      t.v[c] = memory.column[6 + c];
      std::fill_n(t.v[c], padded, F(0));
      if (start[c]) std::copy_n(start[c] + first, count, t.v[c]);
      std::copy_n(from.z[c] + first, count, t.z[c]);
      std::fill(t.z[c] + count, t.z[c] + padded, F(0));
    }
    t.count = padded;
    for (std::size_t i = 0; i < padded; ++i) {
      memory.weight[i] = i < count ? static_cast<double>(from.weight[first + i]) : 0;
    }
    const moving here{t, memory.weight, first, count};
    const auto begin = std::ranges::lower_bound(all_casualties, first, {}, &casualty<F>::index);
    const auto end = std::ranges::lower_bound(begin, all_casualties.end(), first + count, {},
                                              &casualty<F>::index);
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
      if (op.code < operation::map_count) {
        const auto push = table.push[static_cast<std::size_t>(op.code)];
        if (push) push(duals + 2 * op.coefficients, energy, t);
      } else if (op.code == operation::refresh) {
        energy = duals + 2 * op.coefficients;
      } else if (op.code == operation::call) {
        throw std::invalid_argument(
            "forward mode does not follow code of elements; allowed: reverse mode");
      } else {
        at_record(op.coefficients, here);
      }
    }
    for (auto d = begin; d != end; ++d) memory.weight[d->index - first] = -1;
    at_end(here);
  }

  const lattice::sensitivity& plan_;
};

}  // namespace betatron::tracking
