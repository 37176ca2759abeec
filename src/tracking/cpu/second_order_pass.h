// second_order_pass.h: the reverse pass with the rate of everything along a direction in which the
// line is changed; see reverse_pass.h and adjoint_table.h. The beam is rewound, and so are its
// rates; nothing is kept on the way.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <span>
#include <vector>

#include "lattice/sensitivity.h"
#include "numerics/reduction.h"
#include "tracking/cpu/adjoint_table.h"
#include "tracking/cpu/blocks.h"
#include "tracking/cpu/kernel_table.h"
#include "tracking/cpu/reverse_pool.h"
#include "tracking/record_pull.h"
#include "tracking/section.h"

namespace betatron::tracking {

static_assert(tile_size % second_order_tile_size == 0);

class second_order_pass {
 public:
  using particles = beam::columns<const double>;
  using operation = lattice::operation;
  using reverse_operation = lattice::reverse_operation;
  using rated = lattice::rated;

  /// The plan, with rates, without stops and calls, must live as long as this.
  explicit second_order_pass(const lattice::sensitivity& plan) : plan_(plan), pool_(plan, true) {}

  /// Columns, with their rates; null: 0, or not wanted.
  struct rated_columns {
    std::array<const double*, 6> value{}, rate{};
  };

  struct request {
    std::span<const casualty<double>> casualties{};
    std::span<const std::array<double, 6>> seen_rates{};     ///< of each of them, where it was seen
    std::span<const record_pull> records{}, record_rates{};  ///< `active` in both if it is in one
    particles start{};
    std::array<const double*, 6> start_rates{};
    rated_columns end{}, by_end{};
    std::array<double*, 6> by_start{}, by_start_rates{};  ///< out
  };

  struct result {
    std::vector<rated> sums;
    /// Of the rewound coordinates the sum of the squares of their errors; of their rates the largest error, and the
    /// largest rate on the way, looked at in a few places.
    std::array<double, 6> squares{}, rate_error{}, rate_extent{};
  };

  result run(unsigned threads, const request& r) const {
    const std::size_t count = 2 * plan_.sums;
    std::vector<result> of_block(block_count(r.start.size));
    std::vector<std::vector<double>> sums_of_block(of_block.size());
    for_blocks(
        r.start.size, 9 * static_cast<double>(plan_.backward.size()), threads,
        [&] { return std::make_unique<workspace>(plan_); },
        [&](auto& memory, std::size_t b, std::size_t first, std::size_t last) {
          std::vector<numerics::compensated_sum> sums(count);
          for (std::size_t i = first; i < last; i += second_order_tile_size) {
            memory->sums.assign(count, 0.0);
            run_tile(r, i, std::min(second_order_tile_size, last - i), *memory, of_block[b]);
            for (std::size_t k = 0; k < count; ++k) sums[k].add(memory->sums[k]);
          }
          for (const auto& sum : sums) sums_of_block[b].push_back(sum.value());
        });
    result all;
    std::vector<numerics::compensated_sum> sums(count);
    for (std::size_t b = 0; b < of_block.size(); ++b) {
      for (std::size_t k = 0; k < count; ++k) sums[k].add(sums_of_block[b][k]);
      for (std::size_t c = 0; c < 6; ++c) {
        // not std::max, which would lose a NaN
        const result& one = of_block[b];
        if (!(one.rate_error[c] <= all.rate_error[c])) all.rate_error[c] = one.rate_error[c];
        all.squares[c] += one.squares[c];
        all.rate_extent[c] = std::max(all.rate_extent[c], one.rate_extent[c]);
      }
    }
    for (std::size_t k = 0; k < plan_.sums; ++k) {
      all.sums.push_back(with_rate(sums[2 * k].value(), sums[2 * k + 1].value()));
    }
    return all;
  }

  static rated with_rate(double value, double rate) {
    rated r(value);
    r.d[0] = rate;
    return r;
  }

 private:
  using tile = second_order_tile<double>;

  struct workspace {
    static constexpr std::size_t stride = second_order_tile_size + 64 / sizeof(double);
    alignas(64) double column[2][16][stride];  // values, rates
    double weight[second_order_tile_size];     // 0 of particles that are not in the beam
    std::vector<double> sums{}, scratch{}, of_map{};

    explicit workspace(const lattice::sensitivity& plan) {
      const std::size_t most = most_directions(plan);
      scratch.resize(2 * most * second_order_kernels().width);
      of_map.resize(2 * most);
    }
  };

  static rated get(const tile& t, const double* column, std::size_t i) {
    return with_rate(column[i], column[i + t.rates]);
  }
  static void set(const tile& t, double* column, std::size_t i, const rated& value) {
    column[i] = value.v;
    column[i + t.rates] = value.d[0];
  }

  void run_tile(const request& r, std::size_t first, std::size_t count, workspace& memory,
                result& to) const {
    const second_order_table& table = second_order_kernels();
    tile t{};
    t.rates = 16 * workspace::stride;
    for (std::size_t c = 0; c < 6; ++c) {
      t.z[c] = memory.column[0][c];
      t.v[c] = memory.column[0][6 + c];
    }
    t.inv_p = memory.column[0][12];
    t.slip = memory.column[0][13];
    t.inv_p_tangent = memory.column[0][14];
    t.slip_tangent = memory.column[0][15];
    t.count = (count + table.width - 1) / table.width * table.width;
    for (std::size_t c = 0; c < 6; ++c) {
      for (double* column : {t.z[c], t.v[c]}) {
        std::fill_n(column, t.count, 0.0);
        std::fill_n(column + t.rates, t.count, 0.0);
      }
      std::copy_n(r.end.value[c] + first, count, t.z[c]);
      std::copy_n(r.end.rate[c] + first, count, t.z[c] + t.rates);
      if (!r.by_end.value[0]) continue;
      // v_x = -lambda_px, v_px = lambda_x
      const double sign = c % 2 == 0 ? -1 : 1;
      for (std::size_t i = 0; i < count; ++i) {
        t.v[c][i] = sign * r.by_end.value[c ^ 1][first + i];
        t.v[c][i + t.rates] = sign * r.by_end.rate[c ^ 1][first + i];
      }
    }
    std::fill_n(memory.weight, t.count, 0.0);
    std::copy_n(r.start.weight + first, count, memory.weight);

    // Lost particles, the last to be lost first. They come back where they were seen last, with the
    // rates that they had there.
    const auto dead = lost_in(r.casualties, first, count);
    // Until then they go beside one that is not lost, as do the lanes that fill up the last pack: where they would be
    // maps may be anything but regular.
    std::size_t revived = 0, alive = first_alive(dead, first, count);
    const auto put_away = [&] {
      std::array<double, 6> z{}, rates{};
      for (std::size_t c = 0; c < 6 && alive < count; ++c) {
        z[c] = t.z[c][alive];
        rates[c] = t.z[c][alive + t.rates];
      }
      for (std::size_t k = revived; k < dead.size(); ++k) put(t, dead[k]->index - first, z, rates);
      for (std::size_t lane = count; lane < t.count; ++lane) put(t, lane, z, rates);
    };
    put_away();
    for (const casualty<double>* d : dead) memory.weight[d->index - first] = 0;
    const auto revive = [&](std::ptrdiff_t op) {
      const std::size_t before = revived;
      for (; revived < dead.size() && dead[revived]->is_back(op); ++revived) {
        const casualty<double>& d = *dead[revived];
        const auto number = static_cast<std::size_t>(&d - r.casualties.data());
        put(t, d.index - first, d.seen_at, r.seen_rates[number]);
        memory.weight[d.index - first] = r.start.weight[d.index];
        alive = std::min(alive, d.index - first);
      }
      if (revived == before) return false;
      put_away();
      return true;
    };

    const rated exit[2] = {with_rate(plan_.exit_energy[0], plan_.rates.exit_energy[0]),
                           with_rate(plan_.exit_energy[1], plan_.rates.exit_energy[1])};
    const double exit_energy[4] = {exit[0].v, exit[0].d[0], exit[1].v, exit[1].d[0]};
    const double* energy = exit_energy;
    t.still = table.refresh(energy, t);
    const std::size_t every = plan_.backward.size() / 32 + 1;
    std::size_t to_go = 0;
    for (const reverse_operation& op : plan_.backward) {
      if (to_go-- == 0) {
        to_go = every - 1;
        look_at_rates(t, to);
      }
      if (revived < dead.size() && revive(op.forward)) [[unlikely]] {
        t.still = table.refresh(energy, t);
      }
      if (alive == count && op.code != operation::refresh) continue;
      const double* own = pool_.coefficients.data() + 2 * op.coefficients;
      if (op.code < operation::map_count) [[likely]] {
        double* sums = memory.of_map.data();
        std::fill_n(sums, 2 * op.directions, 0.0);
        table.pull[static_cast<std::size_t>(op.code)](
            own, pool_.directions.data() + op.first_direction, op.directions, memory.scratch.data(),
            sums, t);
        for (std::uint32_t d = 0; d < op.directions; ++d) {
          add(plan_.directions[op.first_direction + d].sum, sums[2 * d], sums[2 * d + 1], memory);
        }
      } else if (op.code == operation::refresh) {
        energy = own;
        t.still = table.refresh(energy, t);
      } else if (op.code == operation::record) {
        const record_pull& record = r.records[op.coefficients];
        if (record.active) add_record(record, r.record_rates[op.coefficients], memory.weight, t);
      } else {
        pull_matrix(op, memory, t);
      }
    }
    revive(casualty<double>::at_start);
    look_at_rates(t, to);
    finish(r, first, count, t, to);
  }

  static void look_at_rates(const tile& t, result& to) {
    for (std::size_t c = 0; c < 6; ++c) {
      double largest = to.rate_extent[c];
      for (std::size_t i = 0; i < t.count; ++i) {
        largest = std::max(largest, std::fabs(t.z[c][i + t.rates]));
      }
      to.rate_extent[c] = largest;
    }
  }

  static void put(const tile& t, std::size_t lane, const std::array<double, 6>& z,
                  const std::array<double, 6>& rates) {
    for (std::size_t c = 0; c < 6; ++c) {
      set(t, t.z[c], lane, with_rate(z[c], rates[c]));
      set(t, t.v[c], lane, rated(0.0));
    }
  }

  static void add(std::uint32_t sum, double value, double rate, workspace& memory) {
    memory.sums[2 * sum] += value;
    memory.sums[2 * sum + 1] += rate;
  }

  /// lambda += w (a + h (z - mean)) for each particle.
  static void add_record(const record_pull& r, const record_pull& rates, const double* weight,
                         const tile& t) {
    for (std::size_t i = 0; i < t.count; ++i) {
      double distance[6], moved[6];
      for (std::size_t c = 0; c < 6; ++c) {
        distance[c] = t.z[c][i] - r.mean[c];
        moved[c] = t.z[c][i + t.rates] - rates.mean[c];
      }
      for (std::size_t c = 0; c < 6; ++c) {
        const double sign = c % 2 == 0 ? 1 : -1;  // lambda_x = v_px, lambda_px = -v_x
        double* to = t.v[c ^ 1];
        to[i] += sign * weight[i] * r.slope(c, distance);
        to[i + t.rates] +=
            sign * weight[i] * (rates.slope(c, distance) + r.slope(c, moved) - r.a[c]);
      }
    }
  }

  /// The user's matrix: lambda_in = M^T lambda_out, whatever M is.
  void pull_matrix(const reverse_operation& op, workspace& memory, const tile& t) const {
    const auto number = [&](const std::vector<double>& values, const std::vector<double>& rates,
                            std::size_t at) { return with_rate(values[at], rates[at]); };
    const auto own = [&](std::size_t k) {
      return number(plan_.coefficients, plan_.rates.coefficients, op.coefficients + k);
    };
    std::array<rated, 42> m;
    for (std::size_t k = 0; k < m.size(); ++k) m[k] = own(k);
    const double* inverse = plan_.coefficients.data() + op.coefficients + 42;
    std::vector<std::array<rated, 42>> slopes(op.directions);
    for (std::uint32_t d = 0; d < op.directions; ++d) {
      const std::size_t first = plan_.directions[op.first_direction + d].tangents;
      for (std::size_t k = 0; k < m.size(); ++k) {
        slopes[d][k] = number(plan_.tangents, plan_.rates.tangents, first + k);
      }
    }
    for (std::size_t i = 0; i < t.count; ++i) {
      std::array<rated, 6> lambda, rest, z;
      for (std::size_t k = 0; k < 6; ++k) {
        const rated v = get(t, t.v[k ^ 1], i);
        lambda[k] = k % 2 == 0 ? v : -v;
        rest[k] = get(t, t.z[k], i) - m[36 + k];
      }
      // M z = rest, and for the rates M dz = d rest - dM z
      const auto solve = [&](const auto& right, std::size_t k) {
        double sum = 0;
        for (std::size_t j = 0; j < 6; ++j) sum += inverse[6 * k + j] * right(j);
        return sum;
      };
      for (std::size_t k = 0; k < 6; ++k)
        z[k].v = solve([&](std::size_t j) { return rest[j].v; }, k);
      for (std::size_t k = 0; k < 6; ++k) {
        z[k].d[0] = solve(
            [&](std::size_t j) {
              double right = rest[j].d[0];
              for (std::size_t l = 0; l < 6; ++l) right -= m[6 * j + l].d[0] * z[l].v;
              return right;
            },
            k);
      }
      for (std::uint32_t d = 0; d < op.directions; ++d) {
        rated sum(0.0);
        for (std::size_t k = 0; k < 6; ++k) {
          rated moved = slopes[d][36 + k];
          for (std::size_t j = 0; j < 6; ++j) moved += slopes[d][6 * k + j] * z[j];
          sum += lambda[k] * moved;
        }
        add(plan_.directions[op.first_direction + d].sum, sum.v, sum.d[0], memory);
      }
      for (std::size_t k = 0; k < 6; ++k) {
        rated in(0.0);
        for (std::size_t j = 0; j < 6; ++j) in += m[6 * j + k] * lambda[j];
        set(t, t.v[k ^ 1], i, k % 2 == 0 ? in : -in);
        set(t, t.z[k], i, z[k]);
      }
    }
  }

  /// The results of a tile, and how far it is from where it began.
  static void finish(const request& r, std::size_t first, std::size_t count, const tile& t,
                     result& to) {
    for (std::size_t c = 0; c < 6; ++c) {
      for (std::size_t i = 0; i < count; ++i) {
        const double start = r.start.z[c][first + i];
        if (!std::isfinite(start)) continue;
        const double rate = r.start_rates[c] ? r.start_rates[c][first + i] : 0;
        const double off = std::fabs(t.z[c][i] - start);
        const double rate_off = std::fabs(t.z[c][i + t.rates] - rate);
        if (!(rate_off <= to.rate_error[c])) to.rate_error[c] = rate_off;
        to.squares[c] += off * off;
      }
      if (!r.by_start[0]) continue;
      const double sign = c % 2 == 0 ? 1 : -1;  // lambda_x = v_px, lambda_px = -v_x
      for (std::size_t i = 0; i < count; ++i) {
        r.by_start[c][first + i] = sign * t.v[c ^ 1][i];
        r.by_start_rates[c][first + i] = sign * t.v[c ^ 1][i + t.rates];
      }
    }
  }

  const lattice::sensitivity& plan_;
  reverse_pool<double> pool_;
};

}  // namespace betatron::tracking
