#include "tracking/gradient.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <exception>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <variant>

#include "elements/tile_code.h"
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

/// A particle that was lost in operation `op` of the forward program, and where it was then. `index` counts the
/// particles that were in the beam at the start of the section, `of` all of them.
template <class F>
struct casualty {
  std::size_t index, of;
  std::size_t op;
  bool in_code;  ///< lost by code, in front of which its coordinates are kept
  bool finite;
  std::array<F, 6> z;

  /// It is known where it was in front of the operation.
  bool is_known() const { return finite || in_code; }
};

/// Operations between two places where the whole beam stops.
struct section {
  std::size_t first, last;                    ///< of the forward program
  std::size_t first_backward, last_backward;  ///< of the reverse pass
  std::array<double, 2> entrance, exit;       ///< 1/beta0 and 1/(beta0 gamma0)^2
  std::size_t first_record = 0, last_record = 0;
};

std::vector<section> sections_of(const lattice::sensitivity& plan) {
  std::vector<section> all;
  const std::size_t stops = plan.stops.size();
  std::array<double, 2> energy = plan.forward.entrance_energy;
  for (std::size_t n = 0; n <= stops; ++n) {
    section s{};
    s.first = n == 0 ? 0 : plan.stops[n - 1].forward;
    s.last = n == stops ? plan.forward.operations.size() : plan.stops[n].forward;
    s.first_backward = n == stops ? 0 : plan.stops[n].backward;
    s.last_backward = n == 0 ? plan.backward.size() : plan.stops[n - 1].backward;
    s.entrance = energy;
    if (n < stops) {
      const beam::reference& ref = plan.stops[n].ref;
      energy = {ref.inverse_beta(), ref.inverse_beta_gamma_squared()};
    } else {
      energy = plan.exit_energy;
    }
    s.exit = energy;
    s.first_record = s.last_record = all.empty() ? 0 : all.back().last_record;
    for (std::size_t i = s.first; i < s.last; ++i) {
      if (plan.forward.operations[i].code == operation::record) ++s.last_record;
    }
    all.push_back(s);
  }
  return all;
}

/// Coordinates and weights of a tile in double, for code that knows only that.
struct wide_tile {
  std::vector<double> numbers;
  elements::code_tile<double> view;

  explicit wide_tile(const elements::code_tile<float>& t)
      : numbers(7 * t.padded),
        view{{}, numbers.data() + 6 * t.padded, t.id, t.count, t.padded, t.outside} {
    for (std::size_t c = 0; c < 6; ++c) {
      view.z[c] = numbers.data() + c * t.padded;
      std::copy_n(t.z[c], t.padded, view.z[c]);
    }
    std::copy_n(t.weight, t.count, numbers.data() + 6 * t.padded);
  }
};

template <class F>
void push_code(const elements::tile_code& code, const elements::code_place& place,
               const elements::code_tile<F>& t) {
  if constexpr (std::is_same_v<F, double>) {
    code.push_double(place, t);
  } else if (code.push_single) {
    code.push_single(place, t);
  } else {
    wide_tile wide(t);
    code.push_double(place, wide.view);
    for (std::size_t c = 0; c < 6; ++c) {
      std::transform(wide.view.z[c], wide.view.z[c] + t.padded, t.z[c],
                     [](double v) { return static_cast<F>(v); });
    }
  }
}

/// lambda at the exit becomes that at the entrance: by the code's own pull, or by differences with its steps.
void pull_code_double(const elements::tile_code& code, const elements::code_place& place,
                      const elements::code_tile<double>& t, double* const lambda[6]) {
  if (code.pull_double) return code.pull_double(place, t, lambda);
  const std::size_t n = t.padded;
  std::vector<double> side[2], front(6 * n);
  std::vector<std::uint8_t> outside(t.count);
  for (std::size_t k = 0; k < 6; ++k) {
    for (int s = 0; s < 2; ++s) {
      side[s].resize(6 * n);
      elements::code_tile<double> moved = t;
      moved.outside = outside.data();
      for (std::size_t c = 0; c < 6; ++c) {
        moved.z[c] = side[s].data() + c * n;
        std::copy_n(t.z[c], n, moved.z[c]);
      }
      for (std::size_t i = 0; i < n; ++i) moved.z[k][i] += s == 0 ? code.steps[k] : -code.steps[k];
      code.push_double(place, moved);
    }
    for (std::size_t i = 0; i < n; ++i) {
      const double width = (t.z[k][i] + code.steps[k]) - (t.z[k][i] - code.steps[k]);
      for (std::size_t c = 0; c < 6; ++c) {
        front[k * n + i] += lambda[c][i] * (side[0][c * n + i] - side[1][c * n + i]) / width;
      }
    }
  }
  for (std::size_t k = 0; k < 6; ++k) std::copy_n(front.data() + k * n, n, lambda[k]);
}

template <class F>
void pull_code(const elements::tile_code& code, const elements::code_place& place,
               const elements::code_tile<F>& t, F* const lambda[6]) {
  if constexpr (std::is_same_v<F, double>) {
    pull_code_double(code, place, t, lambda);
  } else if (code.pull_single) {
    code.pull_single(place, t, lambda);
  } else {
    const wide_tile wide(t);
    std::vector<double> numbers(6 * t.padded);
    double* columns[6];
    for (std::size_t c = 0; c < 6; ++c) {
      columns[c] = numbers.data() + c * t.padded;
      std::copy_n(lambda[c], t.padded, columns[c]);
    }
    pull_code_double(code, place, wide.view, columns);
    for (std::size_t c = 0; c < 6; ++c) {
      std::transform(columns[c], columns[c] + t.padded, lambda[c],
                     [](double v) { return static_cast<F>(v); });
    }
  }
}

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

namespace {

/// Everything that the passes of one precision work with.
template <class F>
class passes {
 public:
  using particles = beam::columns<const F>;

  /// elements: of one turn.
  passes(const lattice::sensitivity& plan, std::size_t elements)
      : plan_(plan),
        elements_(static_cast<std::int32_t>(std::max<std::size_t>(1, elements))),
        coefficients_(narrowed<F>(plan.forward.coefficients)) {}

  /// Tracks all particles of `from` through a section; `to` may be the same columns. Sums of its records, and who was
  /// lost, in the order of the columns.
  /// `entrances`: where coordinates at calls of code are kept, one entry per call of the line; null: nowhere.
  void forward(const section& part, const particles& from, const std::array<F*, 6>& to,
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
    for_blocks(from.size, static_cast<double>(part.last - part.first), threads, [&] {
      return [&, memory = std::make_unique<forward_memory>()](std::size_t b, std::size_t first,
                                                              std::size_t last) mutable {
        sums[b].resize(count);
        for (std::size_t i = first; i < last; i += tile_size) {
          forward_tile(part, from, to, i, std::min(tile_size, last - i), *memory, sums[b].data(),
                       dead[b], entrances);
        }
      };
    });
    records.assign(count, {});
    casualties.clear();
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

  /// One section backward.
  struct reverse_request {
    const section* part = nullptr;
    const reverse_pool* pool = nullptr;
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

  reverse_result reverse(unsigned threads, const reverse_request& request) const {
    const std::size_t size = request.start.size, blocks = block_count(size);
    const section& part = *request.part;
    std::vector<reverse_result> of_block(blocks);
    for_blocks(
        size, 3 * static_cast<double>(part.last_backward - part.first_backward), threads, [&] {
          return [&, memory = std::make_unique<reverse_memory>(*this, request)](
                     std::size_t b, std::size_t first, std::size_t last) mutable {
            std::vector<numerics::compensated_sum> sums(plan_.sums);
            for (std::size_t i = first; i < last; i += adjoint_tile_size) {
              memory->sums.assign(plan_.sums, 0.0);
              reverse_tile(request, i, std::min(adjoint_tile_size, last - i), *memory, of_block[b]);
              for (std::size_t k = 0; k < sums.size(); ++k) sums[k].add(memory->sums[k]);
            }
            of_block[b].sums.resize(plan_.sums);
            for (std::size_t k = 0; k < sums.size(); ++k) {
              of_block[b].sums[k] = sums[k].value();
            }
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
  double along(unsigned threads, const particles& from, const std::vector<casualty<F>>& casualties,
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
    std::vector<numerics::compensated_sum> sums(block_count(from.size));
    for_blocks(from.size, 3 * static_cast<double>(plan_.forward.operations.size()), threads, [&] {
      return [&, memory = std::make_unique<reverse_memory>(*this, reverse_request{})](
                 std::size_t b, std::size_t first, std::size_t last) mutable {
        for (std::size_t i = first; i < last; i += adjoint_tile_size) {
          sums[b].add(along_tile(duals.data(), from, i, std::min(adjoint_tile_size, last - i),
                                 casualties, records, request, *memory));
        }
      };
    });
    return numerics::merge(sums).value();
  }

 private:
  struct forward_memory {
    // a few cache lines between columns keep them apart modulo 4096 bytes
    static constexpr std::size_t stride = tile_size + 64 / sizeof(F);
    alignas(64) F energy[2][stride];
    alignas(64) F z[6][stride];
    std::uint32_t outside[tile_size];
    bool gone[tile_size];
    std::uint8_t left[tile_size];
  };

  struct reverse_memory {
    static constexpr std::size_t stride = adjoint_tile_size + 64 / sizeof(F);
    alignas(64) F column[16][stride];
    double weight[adjoint_tile_size];  // 0 of particles that are not in the beam
    std::uint32_t outside[adjoint_tile_size];
    std::uint8_t left[adjoint_tile_size];
    std::vector<double> sums{};
    std::vector<F> scratch;
    // where states are kept
    std::size_t segment = 0;  // operations between two of `starts`
    std::vector<F> starts{}, states{};
    std::vector<std::uint32_t> energy{};  // coefficients in force at the starts

    reverse_memory(const passes& p, const reverse_request& request) {
      std::size_t most = 1;
      for (const reverse_operation& op : p.plan_.backward) {
        most = std::max<std::size_t>(most, op.directions);
      }
      scratch.resize(most * adjoint_kernels<F>().width);
      if (!request.keep_states) return;
      const std::size_t n = request.part->last - request.part->first;
      segment = std::max<std::size_t>(
          1, static_cast<std::size_t>(std::ceil(std::sqrt(static_cast<double>(n)))));
      starts.resize((n / segment + 1) * 6 * adjoint_tile_size);
      states.resize(segment * 6 * adjoint_tile_size);
      energy.resize(n / segment + 1);
    }
  };

  void forward_tile(const section& part, const particles& from, const std::array<F*, 6>& to,
                    std::size_t first, std::size_t count, forward_memory& memory,
                    beam::moment_sums* records, std::vector<casualty<F>>& casualties,
                    std::vector<F>* entrances) const {
    const kernel_table<F>& table = kernels<F>();
    const std::size_t padded = (count + table.width - 1) / table.width * table.width;
    tile<F> t{{}, memory.energy[0], memory.energy[1], padded, memory.outside};
    for (std::size_t c = 0; c < 6; ++c) {
      std::copy_n(from.z[c] + first, count, memory.z[c]);
      std::fill(memory.z[c] + count, memory.z[c] + padded, F(0));
      t.z[c] = memory.z[c];
    }
    std::fill_n(memory.gone, padded, false);
    const std::size_t dead_before = casualties.size();
    const auto& operations = plan_.forward.operations;
    auto collect = [&](std::size_t op, bool in_code = false) {
      for (std::size_t p = 0; p * table.width < padded; ++p) {
        for (std::uint32_t bits = t.outside[p]; bits != 0; bits &= bits - 1) {
          const std::size_t lane =
              p * table.width + static_cast<std::size_t>(std::countr_zero(bits));
          if (lane >= count || memory.gone[lane]) continue;
          memory.gone[lane] = true;
          casualty<F> dead{first + lane, first + lane, op, in_code, true, {}};
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
    const F energy[2] = {static_cast<F>(part.entrance[0]), static_cast<F>(part.entrance[1])};
    table.refresh(energy, t);
    for (std::size_t i = part.first; i < part.last; ++i) {
      const operation& op = operations[i];
      const F* own = coefficients_.data() + op.coefficients;
      if (op.code < map_count) [[likely]] {
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
        if (call(op, from, first, count, t, memory.left)) [[unlikely]]
          collect(i, true);
        if (table.find_non_finite(t)) [[unlikely]]
          collect(i, true);
      } else {
        if (table.find_non_finite(t)) [[unlikely]]
          collect(i);
        records[op.coefficients - part.first_record].merge(
            sum(from, t, first, count, memory.gone, casualties.size() != dead_before));
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

  /// Tile code on `count` particles from `first` on; returns whether some are to be marked in t.outside as lost.
  bool call(const operation& op, const particles& from, std::size_t first, std::size_t count,
            const tile<F>& t, std::uint8_t* left) const {
    const elements::code_call& c = plan_.forward.calls[op.coefficients];
    std::fill_n(left, count, std::uint8_t{0});
    elements::code_tile<F> view{{}, from.weight + first, from.id + first, count, t.count, left};
    std::ranges::copy(t.z, view.z);
    push_code(*c.tiles, place_of(c, op), view);
    if (std::all_of(left, left + count, [](std::uint8_t flag) { return flag == 0; })) return false;
    const std::size_t width = kernels<F>().width;
    std::fill_n(t.outside, (t.count + width - 1) / width, 0u);
    for (std::size_t i = 0; i < count; ++i) {
      if (left[i] != 0) t.outside[i / width] |= 1u << i % width;
    }
    return true;
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

  void reverse_tile(const reverse_request& request, std::size_t first, std::size_t count,
                    reverse_memory& memory, reverse_result& result) const {
    const reverse_pool& pool = *request.pool;
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

    // lost particles, the last to be lost first
    std::vector<const casualty<F>*> dead;
    const auto begin = std::ranges::lower_bound(request.casualties, first, {}, &casualty<F>::index);
    for (auto d = begin; d != request.casualties.end() && d->index < first + count; ++d) {
      dead.push_back(&*d);
      const std::size_t lane = d->index - first;
      for (std::size_t c = 0; c < 6; ++c) t.z[c][lane] = t.v[c][lane] = F(0);
      memory.weight[lane] = 0;
    }
    std::ranges::stable_sort(dead, std::ranges::greater{}, &casualty<F>::op);
    std::size_t revived = 0;

    // those that were lost in an operation behind `op`; where they were is not always known: then they stay away
    auto revive_behind = [&](std::ptrdiff_t op) {
      bool any = false;
      for (; revived < dead.size() && static_cast<std::ptrdiff_t>(dead[revived]->op) > op;
           ++revived) {
        const casualty<F>& d = *dead[revived];
        if (!d.is_known()) continue;
        const std::size_t lane = d.index - first;
        const F* kept = nullptr;  // where code has moved it
        if (d.in_code) {
          const operation& call = plan_.forward.operations[d.op];
          kept = request.entrances[call.coefficients].data() + d.index;
        }
        for (std::size_t c = 0; c < 6; ++c) {
          t.z[c][lane] = kept ? kept[c * start.size] : d.z[c];
          t.v[c][lane] = F(0);
        }
        memory.weight[lane] = static_cast<double>(start.weight[d.index]);
        any = true;
      }
      return any;
    };

    std::size_t at_segment = static_cast<std::size_t>(-1);
    if (memory.segment != 0) {
      keep_starts(request, first, count, dead, memory);
      load_state(request, part.last, dead, first, count, memory, at_segment, t);
    }

    const F exit_energy[2] = {static_cast<F>(part.exit[0]), static_cast<F>(part.exit[1])};
    t.still = table.refresh(exit_energy, t);
    const F* energy = exit_energy;
    for (std::size_t i = part.first_backward; i < part.last_backward; ++i) {
      const reverse_operation& op = plan_.backward[i];
      if (revived < dead.size() && revive_behind(op.forward)) [[unlikely]] {
        t.still = table.refresh(energy, t);
      }
      if (memory.segment != 0 && op.code != operation::refresh) {
        load_state(request, op.forward + 1, dead, first, count, memory, at_segment, t);
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
      } else if (op.code == reverse_operation::call) {
        pull_call(op, request, first, count, memory, t);
        // the derivative of code may not be finite where it loses particles
        for (std::size_t k = revived; k < dead.size(); ++k) {
          const std::size_t lane = dead[k]->index - first;
          for (std::size_t c = 0; c < 6; ++c) t.z[c][lane] = t.v[c][lane] = F(0);
        }
      } else if (op.code == operation::record) {
        const record_pull& record = request.records[op.coefficients];
        if (record.active) add_record(record, memory.weight, t);
      } else {
        pull_matrix(op, request, first, count, dead, memory, at_segment, t);
      }
    }
    revive_behind(-1);
    finish(request, first, count, dead, memory, t, result);
  }

  double along_tile(const F* duals, const particles& from, std::size_t first, std::size_t count,
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
      std::copy_n(from.z[c] + first, count, t.z[c]);
      std::fill(t.z[c] + count, t.z[c] + padded, F(0));
    }
    t.count = padded;
    for (std::size_t i = 0; i < padded; ++i) {
      memory.weight[i] = i < count ? static_cast<double>(from.weight[first + i]) : 0;
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
      } else if (op.code == operation::call) {
        throw std::invalid_argument(
            "forward mode does not follow code of elements; allowed: reverse mode");
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

  /// Tile code: its own pull, at the coordinates that were kept.
  void pull_call(const reverse_operation& op, const reverse_request& request, std::size_t first,
                 std::size_t count, reverse_memory& memory, const adjoint_tile<F>& t) const {
    const elements::code_call& c = plan_.forward.calls[op.coefficients];
    const F* kept = request.entrances[op.coefficients].data() + first;
    for (std::size_t k = 0; k < 6; ++k) {
      std::copy_n(kept + k * request.start.size, count, t.z[k]);
      std::fill(t.z[k] + count, t.z[k] + t.count, F(0));
    }
    std::fill_n(memory.left, count, std::uint8_t{0});
    elements::code_tile<F> view{
        {}, request.start.weight + first, request.start.id + first, count, t.count, memory.left};
    std::ranges::copy(t.z, view.z);
    F* lambda[6];  // lambda_x = v_px, lambda_px = -v_x
    for (std::size_t k = 0; k < 6; ++k) {
      lambda[k] = t.v[k ^ 1];
      if (k % 2 == 1) std::transform(lambda[k], lambda[k] + t.count, lambda[k], std::negate<>());
    }
    pull_code(*c.tiles, place_of(c, plan_.forward.operations[op.forward]), view, lambda);
    for (std::size_t k = 1; k < 6; k += 2) {
      std::transform(lambda[k], lambda[k] + t.count, lambda[k], std::negate<>());
    }
  }

  /// The user's matrix: lambda_in = M^T lambda_out, whatever M is.
  void pull_matrix(const reverse_operation& op, const reverse_request& request, std::size_t first,
                   std::size_t count, const std::vector<const casualty<F>*>& dead,
                   reverse_memory& memory, std::size_t& at_segment,
                   const adjoint_tile<F>& t) const {
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
      load_state(request, op.forward, dead, first, count, memory, at_segment, t);
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
  void forward_again(std::size_t i, const particles& from, std::size_t first, std::size_t count,
                     const std::vector<const casualty<F>*>& dead, std::uint32_t& energy,
                     const tile<F>& t, std::uint8_t* left) const {
    const operation& op = plan_.forward.operations[i];
    const kernel_table<F>& table = kernels<F>();
    if (op.code < map_count) {
      table.push[static_cast<std::size_t>(op.code)](coefficients_.data() + op.coefficients, t);
    } else if (op.code == operation::refresh) {
      table.refresh(coefficients_.data() + op.coefficients, t);
      energy = op.coefficients;
    } else if (op.code == operation::call) {
      call(op, from, first, count, t, left);
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

  void refresh(const section& part, std::uint32_t energy, const tile<F>& t) const {
    const F entrance[2] = {static_cast<F>(part.entrance[0]), static_cast<F>(part.entrance[1])};
    kernels<F>().refresh(energy == at_entrance ? entrance : coefficients_.data() + energy, t);
  }

  /// Tracks a tile through the section and keeps its coordinates in front of each segment.
  void keep_starts(const reverse_request& request, std::size_t first, std::size_t count,
                   const std::vector<const casualty<F>*>& dead, reverse_memory& memory) const {
    const section& part = *request.part;
    const std::size_t width = kernels<F>().width;
    const std::size_t padded = (count + width - 1) / width * width;
    tile<F> t{{}, memory.column[12], memory.column[13], padded, memory.outside};
    for (std::size_t c = 0; c < 6; ++c) {
      t.z[c] = memory.states.data() + c * adjoint_tile_size;
      std::copy_n(request.start.z[c] + first, count, t.z[c]);
      std::fill(t.z[c] + count, t.z[c] + padded, F(0));
      for (const casualty<F>* d : dead) {
        if (!d->is_known()) t.z[c][d->index - first] = F(0);
      }
    }
    std::uint32_t energy = at_entrance;
    refresh(part, energy, t);
    for (std::size_t i = 0; part.first + i <= part.last; ++i) {
      if (i % memory.segment == 0) {
        F* to = memory.starts.data() + i / memory.segment * 6 * adjoint_tile_size;
        for (std::size_t c = 0; c < 6; ++c) std::copy_n(t.z[c], padded, to + c * adjoint_tile_size);
        memory.energy[i / memory.segment] = energy;
      }
      if (part.first + i < part.last)
        forward_again(part.first + i, request.start, first, count, dead, energy, t, memory.left);
    }
  }

  /// Sets the coordinates to those in front of forward operation `op`, which may be the end of the section.
  void load_state(const reverse_request& request, std::size_t op,
                  const std::vector<const casualty<F>*>& dead, std::size_t first, std::size_t count,
                  reverse_memory& memory, std::size_t& at_segment,
                  const adjoint_tile<F>& to) const {
    const section& part = *request.part;
    const std::size_t wanted = op - part.first, segment = wanted / memory.segment;
    const F* start = memory.starts.data() + segment * 6 * adjoint_tile_size;
    if (wanted % memory.segment == 0) return copy_state(start, to);
    const std::size_t begin = segment * memory.segment;
    if (segment != at_segment) {
      // states[k] is behind operation number `begin` + k of the section
      F* z = memory.states.data();
      alignas(64) F energy_columns[2][adjoint_tile_size];
      tile<F> t{{}, energy_columns[0], energy_columns[1], to.count, memory.outside};
      const F* from = start;
      std::uint32_t energy = memory.energy[segment];
      const std::size_t end = std::min(begin + memory.segment, part.last - part.first);
      for (std::size_t i = begin; i < end; ++i) {
        for (std::size_t c = 0; c < 6; ++c) {
          t.z[c] = z + ((i - begin) * 6 + c) * adjoint_tile_size;
          std::copy_n(from + c * adjoint_tile_size, to.count, t.z[c]);
        }
        if (i == begin) refresh(part, energy, t);
        forward_again(part.first + i, request.start, first, count, dead, energy, t, memory.left);
        from = z + (i - begin) * 6 * adjoint_tile_size;
      }
      at_segment = segment;
    }
    copy_state(memory.states.data() + (wanted - 1 - begin) * 6 * adjoint_tile_size, to);
  }

  static void copy_state(const F* from, const adjoint_tile<F>& to) {
    for (std::size_t c = 0; c < 6; ++c) {
      std::copy_n(from + c * adjoint_tile_size, to.count, to.z[c]);
    }
  }

  /// The results of a tile, and how far it is from where it began.
  void finish(const reverse_request& request, std::size_t first, std::size_t count,
              const std::vector<const casualty<F>*>& dead, const reverse_memory& memory,
              const adjoint_tile<F>& t, reverse_result& result) const {
    std::vector<bool> unknown(dead.empty() ? 0 : count);
    for (const casualty<F>* d : dead) {
      if (!d->is_known()) unknown[d->index - first] = true;
    }
    for (std::size_t c = 0; c < 6; ++c) {
      if (request.rewound[0]) std::copy_n(t.z[c], count, request.rewound[c] + first);
      for (std::size_t i = 0; i < count && request.start.z[0]; ++i) {
        if (!unknown.empty() && unknown[i]) continue;
        const double start = static_cast<double>(request.start.z[c][first + i]);
        const double off = std::fabs(static_cast<double>(t.z[c][i]) - start);
        if (memory.segment == 0 && !(off <= result.error[c])) result.error[c] = off;
        result.extent[c] = std::max(result.extent[c], std::fabs(start));
      }
      if (!request.by_start[0]) continue;
      const F sign = c % 2 == 0 ? F(1) : F(-1);  // lambda_x = v_px, lambda_px = -v_x
      for (std::size_t i = 0; i < count; ++i) {
        request.by_start[c][first + i] = sign * t.v[c ^ 1][i];
      }
    }
  }

  /// Where code is called.
  elements::code_place place_of(const elements::code_call& c, const operation& op) const {
    return c.at(op.element / elements_, op.element % elements_);
  }

  const lattice::sensitivity& plan_;
  std::int32_t elements_;
  std::vector<F> coefficients_;
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

template <class F>
std::array<F*, 6> columns_in(F* data, std::size_t n) {
  std::array<F*, 6> z;
  for (std::size_t c = 0; c < 6; ++c) z[c] = data + c * n;
  return z;
}

}  // namespace

/// What both precisions share.
struct gradient::state {
  const beam::bunch& bunch;
  gradient_options options;
  lattice::line turn;    ///< one turn
  lattice::line line{};  ///< all of them
  unsigned threads;
  beam::reference start;
  std::vector<std::uint8_t> recorded{};     ///< flags of all turns
  std::vector<kicked_stretch> stretches{};  ///< of one turn; empty without effects
  std::vector<std::size_t>
      stretch_of{};  ///< of all turns: the stretch that each stop is in front of
  lattice::sensitivity plan{};
  std::vector<section> sections{};
  std::vector<moment_record> records{};
  std::vector<std::size_t> lost{};
  std::variant<std::shared_ptr<float[]>, std::shared_ptr<double[]>> final{};
  /// Of each section.
  std::variant<std::vector<std::vector<casualty<float>>>,
               std::vector<std::vector<casualty<double>>>>
      casualties{};
  /// Coordinates at each call of code, of the particles that are in the beam then.
  std::variant<std::vector<std::vector<float>>, std::vector<std::vector<double>>> entrances{};
  bool overwritten = false;  ///< the final coordinates are not there any more: states must be kept

  /// Throws as gradient's constructor. `options` with its number of threads.
  state(const lattice::line& l, const beam::bunch& b, gradient_options o)
      : bunch(b), options(std::move(o)), turn(l), threads(options.threads), start(b.ref) {
    prepare();
  }

  /// What acts at a stop, and where.
  const std::vector<kicked_stretch::kick>& kicks_at(std::size_t stop) const {
    return stretches[stretch_of[stop] % stretches.size()].kicks;
  }
  kick_place place_at(std::size_t stop, const kicked_stretch::kick& k) const {
    kick_place p = place_of(turn, k);
    p.ref = plan.stops[stop].ref;
    p.turn = static_cast<std::int64_t>(stretch_of[stop] / stretches.size());
    p.threads = threads;
    return p;
  }

  void kick(beam::bunch& b, std::size_t stop) const {
    for (const kicked_stretch::kick& k : kicks_at(stop)) {
      const kick_place place = place_at(stop, k);
      b.ref = place.ref;
      options.collective[k.effect].kick(b, place);
    }
  }

  void begin() const {
    for (const effect& e : options.collective) {
      if (e.begin) e.begin(turn, bunch, lattice::direction::forward);
    }
  }

  template <class F>
  void track(const beam::columns<const F>& columns);
  /// What a reverse pass adds up.
  struct reverse_sums {
    std::vector<double> contributions;  // see sensitivity::collect
    std::array<double, 6> error{}, extent{};
    std::vector<double> by_kinetic;  // at each stop
    std::vector<double> knobs;       // directly through kicks
    double charge = 0;
  };
  template <class F>
  reverse_sums reverse(const beam::columns<const F>& columns, const pull_request<F>& request,
                       std::span<const record_pull> pulls, bool keep_states) const;

 private:
  void prepare();
  template <class F>
  void pull_kicks(company<F>& beam, const std::array<F*, 6>& lambda, std::size_t stop,
                  reverse_sums& sums) const;
  template <class F>
  void replay(const passes<F>& pass, const beam::columns<const F>& columns, std::size_t n,
              company<F>& beam) const;

  std::vector<lattice::geometry_slope> geometry_{};  // of each knob
};

/// Where the beam stops, and what happens there.
void gradient::state::prepare() {
  const std::size_t elements = turn.elements.size();
  const auto turns = static_cast<std::size_t>(options.turns);
  for (const effect& e : options.collective) {
    if (!e.kick) throw std::invalid_argument(e.name + " has no kick on particles");
    if (e.pull) continue;
    throw std::invalid_argument(e.name + " has no derivative, gradients cannot follow it" +
                                (e.no_pull.empty() ? "" : ": it " + e.no_pull));
  }
  line = turn;
  line.elements.clear();
  for (std::size_t k = 0; k < turns; ++k) {
    line.elements.insert(line.elements.end(), turn.elements.begin(), turn.elements.end());
    recorded.insert(recorded.end(), options.recorded.begin(), options.recorded.end());
  }
  std::vector<lattice::position> stops;
  if (!options.collective.empty()) stretches = cut_at_kicks(turn, options.collective);
  for (std::size_t k = 0; k < turns * stretches.size(); ++k) {
    const kicked_stretch& s = stretches[k % stretches.size()];
    if (s.kicks.empty()) continue;
    lattice::position at = s.first;
    at.element += k / stretches.size() * elements;
    stops.push_back(at);
    stretch_of.push_back(k);
  }
  lattice::sensitivity_options wanted;
  wanted.knobs = options.knobs;
  wanted.reference_energy = options.reference_energy;
  wanted.recorded = recorded;
  wanted.record_start = options.record_start;
  wanted.record_end = true;
  wanted.stops = stops;
  plan = lattice::differentiate(line, start, wanted);
  sections = sections_of(plan);
  if (stops.empty()) return;
  for (const lattice::knob& k : options.knobs) geometry_.push_back(lattice::geometry_of(k));
}

template <class F>
void gradient::state::track(const beam::columns<const F>& columns) {
  auto memory = std::make_shared_for_overwrite<F[]>(6 * columns.size);
  const std::array<F*, 6> z = columns_in(memory.get(), columns.size);
  const passes<F> pass(plan, turn.elements.size());
  std::vector<std::vector<casualty<F>>> dead(sections.size());
  std::vector<std::vector<F>> kept(plan.forward.calls.size());
  company<F> beam(start, columns, z);
  begin();
  for (std::size_t n = 0; n < sections.size(); ++n) {
    if (n > 0) {
      beam.remove(dead[n - 1]);
      kick(beam.bunch(), n - 1);
    }
    std::vector<beam::moment_sums> sums;
    pass.forward(sections[n], n == 0 ? columns : beam.columns(), z, threads, sums, dead[n],
                 kept.data());
    beam.identify(dead[n]);
    for (std::size_t i = 0; i < sums.size(); ++i) {
      const lattice::record_point& at = plan.forward.records[sections[n].first_record + i];
      const auto elements = static_cast<std::int32_t>(turn.elements.size());
      const bool inside = at.element >= 0;
      records.push_back({inside ? at.element / elements : 0, inside ? at.element % elements : -1,
                         at.slice, at.ref, beam::finish(sums[i])});
    }
  }
  for (std::size_t n = sections.size(); n-- > 0;) {
    if (n + 1 < sections.size()) beam.insert(dead[n]);
    for (const auto& d : dead[n]) lost.push_back(d.of);
  }
  std::ranges::sort(lost);
  final = std::move(memory);
  casualties = std::move(dead);
  entrances = std::move(kept);
}

/// The kicks at a stop, the last first: the covector, and the beam, go from behind them to the front.
template <class F>
void gradient::state::pull_kicks(company<F>& beam, const std::array<F*, 6>& lambda,
                                 std::size_t stop, reverse_sums& sums) const {
  beam::bunch& b = beam.bunch();
  const auto& kicks = kicks_at(stop);
  for (auto k = kicks.rbegin(); k != kicks.rend(); ++k) {
    const kick_place place = place_at(stop, *k);
    b.ref = place.ref;
    const kick_slopes slopes = options.collective[k->effect].pull(b, {lambda}, place);
    sums.by_kinetic[stop] += slopes.kinetic;
    sums.charge += slopes.charge;
    for (std::size_t i = 0; i < options.knobs.size(); ++i) {
      if (slopes.by_line && (geometry_[i].length != 0 || geometry_[i].curvature != 0)) {
        sums.knobs[i] += lattice::derivative_along(options.knobs[i], turn, slopes.by_line);
      }
      if (options.knobs[i].of != turn.elements[k->element]) continue;
      sums.knobs[i] += slopes.length * geometry_[i].length * (k->to - k->from) +
                       slopes.curvature * geometry_[i].curvature;
    }
  }
}

/// From behind the kicks in front of section n to behind those in front of the next.
template <class F>
void gradient::state::replay(const passes<F>& pass, const beam::columns<const F>& columns,
                             std::size_t n, company<F>& beam) const {
  const auto& dead = std::get<std::vector<std::vector<casualty<F>>>>(casualties);
  std::vector<beam::moment_sums> sums;
  std::vector<casualty<F>> found;  // as the first time
  pass.forward(sections[n], n == 0 ? columns : beam.columns(), beam.coordinates(), threads, sums,
               found);
  beam.remove(dead[n]);
  kick(beam.bunch(), n);
}

template <class F>
gradient::state::reverse_sums gradient::state::reverse(const beam::columns<const F>& columns,
                                                       const pull_request<F>& request,
                                                       std::span<const record_pull> pulls,
                                                       bool keep_states) const {
  const auto& dead = std::get<std::vector<std::vector<casualty<F>>>>(casualties);
  const std::size_t n = columns.size, count = sections.size();
  F* const end = std::get<std::shared_ptr<F[]>>(final).get();
  const passes<F> pass(plan, turn.elements.size());
  const typename passes<F>::reverse_pool pool(plan);
  reverse_sums sums;
  sums.by_kinetic.assign(plan.stops.size(), 0.0);
  sums.knobs.assign(options.knobs.size(), 0.0);
  std::vector<numerics::compensated_sum> contributions(plan.sums);
  typename passes<F>::reverse_request section_request;
  section_request.pool = &pool;
  section_request.records = pulls;
  section_request.keep_states = keep_states;
  section_request.entrances = std::get<std::vector<std::vector<F>>>(entrances).data();
  const auto run = [&](std::size_t m) {
    section_request.part = &sections[m];
    section_request.casualties = dead[m];
    const auto r = pass.reverse(threads, section_request);
    for (std::size_t k = 0; k < contributions.size(); ++k) contributions[k].add(r.sums[k]);
    if (m > 0) return;
    sums.error = r.error;
    sums.extent = r.extent;
    for (const auto& c : contributions) sums.contributions.push_back(c.value());
  };
  section_request.by_end = request.by_particles;
  section_request.by_start = request.initial;
  if (count == 1) {
    const std::array<F*, 6> z = columns_in(end, n);
    section_request.start = columns;
    section_request.end = {z[0], z[1], z[2], z[3], z[4], z[5]};
    run(0);
    return sums;
  }

  // The beam that goes backward, and the covector. They may be where the caller wants the result.
  const bool in_place = request.initial[0] == end;
  std::shared_ptr<F[]> beam_memory, lambda_memory;
  F* place = end;
  if (!in_place) {
    beam_memory = std::make_shared_for_overwrite<F[]>(6 * n);
    place = beam_memory.get();
    if (!keep_states) std::copy_n(end, 6 * n, place);
  }
  std::array<F*, 6> lambda = request.initial;
  if (in_place || !lambda[0]) {
    lambda_memory = std::make_shared_for_overwrite<F[]>(6 * n);
    lambda = columns_in(lambda_memory.get(), n);
  }
  company<F> beam(start, columns, columns_in(place, n));
  const std::array<F*, 6>& z = beam.coordinates();
  const auto lost_before_last = [&] {
    return std::any_of(dead.begin(), dead.end() - 1, [](const auto& d) { return !d.empty(); });
  };
  section_request.by_end = request.by_particles;
  if (request.by_particles[0] && lost_before_last()) {
    for (std::size_t c = 0; c < 6; ++c) {
      std::copy_n(request.by_particles[c], n, lambda[c]);
      section_request.by_end[c] = lambda[c];
    }
  }
  for (std::size_t m = 0; m + 1 < count; ++m) beam.remove(dead[m], lambda);
  section_request.by_start = lambda;
  const auto step = [&](std::size_t m) {
    // the result may overwrite coordinates that have been read
    if (m == 0 && in_place) section_request.by_start = z;
    if (m == 0) section_request.rewound = {};
    run(m);
    if (m == 0) return;
    for (std::size_t c = 0; c < 6; ++c) section_request.by_end[c] = lambda[c];
    pull_kicks(beam, lambda, m - 1, sums);
    beam.insert(dead[m - 1], lambda);
  };

  section_request.end = {z[0], z[1], z[2], z[3], z[4], z[5]};
  if (!keep_states) {
    section_request.rewound = z;
    for (std::size_t m = count; m-- > 0;) {
      section_request.start = beam.columns();
      section_request.start.z = m == 0 ? columns.z : std::array<const F*, 6>{};
      step(m);
    }
  } else {
    // states behind the kicks: of every `stride`-th section from the start, and of those in between when needed
    struct kept {
      company<F> beam;
      std::vector<F> z;
    };
    const auto keep = [](const company<F>& who) {
      kept k{who, std::vector<F>(6 * who.size())};
      for (std::size_t c = 0; c < 6; ++c) {
        std::copy_n(who.coordinates()[c], who.size(), k.z.data() + c * who.size());
      }
      return k;
    };
    const auto restore = [](const kept& k) {
      for (std::size_t c = 0; c < 6; ++c) {
        std::copy_n(k.z.data() + c * k.beam.size(), k.beam.size(), k.beam.coordinates()[c]);
      }
    };
    const auto stride = static_cast<std::size_t>(std::ceil(std::sqrt(static_cast<double>(count))));
    std::vector<kept> milestones, between;
    company<F> scout(start, columns, z);
    for (std::size_t c = 0; c < 6; ++c) std::copy_n(columns.z[c], n, z[c]);
    begin();
    for (std::size_t m = 0; m < count; ++m) {
      if (m % stride == 0) milestones.push_back(keep(scout));
      if (m + 1 < count) replay(pass, columns, m, scout);
    }
    for (std::size_t m = count; m-- > 0;) {
      const std::size_t first = m / stride * stride;
      if (m + 1 == count || (m + 1) % stride == 0) {
        between.clear();
        scout = milestones.back().beam;
        restore(milestones.back());
        milestones.pop_back();
        for (std::size_t k = first; k <= m; ++k) {
          between.push_back(keep(scout));
          if (k < m) replay(pass, columns, k, scout);
        }
      }
      restore(between.back());
      between.pop_back();
      section_request.start = beam.columns();
      step(m);
    }
  }
  return sums;
}

gradient::gradient(const lattice::line& l, const beam::bunch& b, gradient_options options) {
  check_flags("record", options.recorded, l);
  if (options.turns < 1) {
    throw std::invalid_argument("turns = " + std::to_string(options.turns) +
                                " is not allowed; allowed: >= 1");
  }
  if (options.threads == 0) options.threads = available_threads();
  state_ = std::make_unique<state>(l, b, std::move(options));
  b.visit([&]<class F>(const beam::columns<const F>& columns) { state_->track(columns); });
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
  const state& s = *state_;
  return s.bunch.visit([&]<class F>(const beam::columns<const F>& columns) {
    std::size_t dead = 0, kept = 0;
    for (const auto& at : std::get<std::vector<std::vector<F>>>(s.entrances)) kept += at.size();
    for (const auto& list : std::get<std::vector<std::vector<casualty<F>>>>(s.casualties)) {
      dead += list.size();
    }
    const std::size_t arrays = s.plan.stops.empty() ? 1 : 2;  // the covector has one of its own
    return (arrays * 6 * columns.size + kept) * sizeof(F) + dead * sizeof(casualty<F>) +
           s.plan.sums * block_count(columns.size) * sizeof(double);
  });
}

template <class F>
pull_result gradient::pull(const pull_request<F>& request) const {
  state& s = *state_;
  const std::vector<record_pull> records = pulls_of(request.by_moments, s.records);
  const F* final = final_coordinates<F>().get();
  bool keep_states = request.strategy == reverse_strategy::checkpoint || s.overwritten;
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
    s.overwritten = s.overwritten || request.initial[0] == final;
    const state::reverse_sums r = s.bunch.visit([&](const auto& columns) {
      if constexpr (std::is_same_v<std::remove_cvref_t<decltype(columns)>,
                                   beam::columns<const F>>) {
        return s.reverse(columns, request, records, keep_states);
      } else {
        return state::reverse_sums{};
      }
    });
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
    auto collected =
        s.plan.collect(r.contributions, by_kinetic, r.by_kinetic, s.options.knobs.size());
    result.knobs = std::move(collected.knobs);
    for (std::size_t k = 0; k < result.knobs.size(); ++k) result.knobs[k] += r.knobs[k];
    result.kinetic = collected.kinetic;
    const double charge = std::fabs(s.bunch.charge());
    if (charge != 0) result.charge = r.charge / charge;
    return result;
  }
}

template <class F>
double gradient::push(const pull_request<F>& request, std::ptrdiff_t knob) const {
  const state& s = *state_;
  if (!s.options.collective.empty()) {
    throw std::invalid_argument(
        "forward mode does not follow collective effects; allowed: reverse mode");
  }
  if (knob < -1 || knob >= static_cast<std::ptrdiff_t>(s.options.knobs.size())) {
    throw std::invalid_argument("there is no knob number " + std::to_string(knob));
  }
  lattice::sensitivity_options wanted;
  wanted.knobs = s.options.knobs;
  wanted.recorded = s.recorded;
  wanted.record_start = s.options.record_start;
  wanted.record_end = true;
  const lattice::forward_tangents tangents =
      lattice::differentiate_forward(s.line, s.start, wanted, knob);
  const std::vector<record_pull> records = pulls_of(request.by_moments, s.records);
  double total = s.bunch.visit([&](const auto& columns) {
    if constexpr (std::is_same_v<std::remove_cvref_t<decltype(columns)>, beam::columns<const F>>) {
      const auto& dead = std::get<std::vector<std::vector<casualty<F>>>>(s.casualties);
      return passes<F>(s.plan, s.turn.elements.size())
          .along(s.threads, columns, dead[0], records, request, tangents);
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
