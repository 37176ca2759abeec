#include "tracking/track.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "tracking/cpu/executor.h"

namespace betatron::tracking {

namespace {

using beam::reference;
using lattice::direction;

/// Particle-operations between two calls of on_progress: about a quarter of a second on one processor.
constexpr double work_per_chunk = 2.5e8;

void check(const lattice::line& l, const track_options& o) {
  if (o.turns < 0) {
    throw std::invalid_argument("turns = " + std::to_string(o.turns) + " is not allowed; allowed: >= 0");
  }
  if (!o.recorded.empty() && o.recorded.size() != l.elements.size()) {
    throw std::invalid_argument("record has " + std::to_string(o.recorded.size()) +
                                " flags for a line of " + std::to_string(l.elements.size()) +
                                " elements");
  }
}

/// What one turn without a change of energy does to the reference particle: the same rigid motion every time.
struct turn_motion {
  double ds = 0, dt = 0;
  std::array<double, 3> shift{};     // in the frame at the start
  std::array<double, 9> rotation{};  // frame at the end = rotation frame at the start

  turn_motion() = default;
  turn_motion(const reference& start, const reference& end)
      : ds(end.s - start.s), dt(end.t - start.t) {
    for (std::size_t i = 0; i < 3; ++i) {
      for (std::size_t k = 0; k < 3; ++k) {
        shift[i] += start.frame[3 * i + k] * (end.position[k] - start.position[k]);
        for (std::size_t j = 0; j < 3; ++j) {
          rotation[3 * i + j] += end.frame[3 * i + k] * start.frame[3 * j + k];
        }
      }
    }
  }

  void apply(reference& ref) const {
    const auto frame = ref.frame;
    ref.s += ds;
    ref.t += dt;
    for (std::size_t i = 0; i < 3; ++i) {
      for (std::size_t k = 0; k < 3; ++k) {
        ref.position[k] += shift[i] * frame[3 * i + k];
        ref.frame[3 * i + k] = rotation[3 * i] * frame[k] + rotation[3 * i + 1] * frame[3 + k] +
                               rotation[3 * i + 2] * frame[6 + k];
      }
    }
  }
};

/// One call of `track`: a turn is cut into chunks of elements, or several turns make one chunk.
class driver {
 public:
  driver(const lattice::line& l, beam::bunch& b, const track_options& o)
      : line_(l), bunch_(b), options_(o) {
    compile_.way = o.way;
    compile_.recorded = o.recorded;
    compile_.record_slices = o.record_slices;
    threads_ = o.threads != 0 ? o.threads : available_threads();
  }

  track_result run() {
    check(line_, options_);
    const std::size_t n = line_.elements.size();
    // compiling everything once first: errors come before the first particle has moved
    reference end = bunch_.ref;
    lattice::program turn = lattice::compile(line_, 0, n, end, compile_);
    if (options_.record_start) record_start();
    if (options_.turns == 0) return result_;

    const double effort = static_cast<double>(std::max<std::size_t>(bunch_.size(), 1)) *
                          static_cast<double>(std::max<std::size_t>(turn.operations.size(), 1)) /
                          threads_;
    const bool same_energy = end.kinetic == bunch_.ref.kinetic;
    way_ = turn_motion(bunch_.ref, end);
    const bool watched = static_cast<bool>(options_.on_progress);
    for (std::int64_t done = 0; done < options_.turns && !result_.interrupted;) {
      if (watched && effort > 2 * work_per_chunk) {
        run_in_pieces(done, static_cast<std::size_t>(std::ceil(effort / work_per_chunk)));
        ++done;
      } else if (same_energy) {
        std::int64_t together = options_.turns - done;
        if (watched || !turn.records.empty()) {
          const double fit = std::max(1.0, work_per_chunk / effort);
          together = static_cast<std::int64_t>(std::min<double>(static_cast<double>(together), fit));
        }
        run_program(turn, done, together);
        for (std::int64_t k = 0; k < together; ++k) way_.apply(bunch_.ref);
        done += together;
        report(done, 0);
      } else {
        if (done > 0) {
          end = bunch_.ref;
          turn = lattice::compile(line_, 0, n, end, compile_);
        }
        run_program(turn, done, 1);
        bunch_.ref = end;
        ++done;
        report(done, 0);
      }
    }
    return result_;
  }

 private:
  /// One turn in `pieces` runs of elements.
  void run_in_pieces(std::int64_t turn, std::size_t pieces) {
    const std::size_t n = line_.elements.size();
    pieces = std::min(pieces, n);
    for (std::size_t k = 0; k < pieces && !result_.interrupted; ++k) {
      std::size_t first = n * k / pieces, last = n * (k + 1) / pieces;
      if (options_.way == direction::backward) {
        const std::size_t from = first;
        first = n - last;
        last = n - from;
      }
      reference end = bunch_.ref;
      const lattice::program p = lattice::compile(line_, first, last, end, compile_);
      run_program(p, turn, 1);
      bunch_.ref = end;
      const std::size_t passed = n * (k + 1) / pieces;
      report(passed == n ? turn + 1 : turn, passed == n ? 0 : passed);
    }
  }

  void run_program(const lattice::program& p, std::int64_t turn, std::int64_t turns) {
    const cpu_run how{options_.first_turn + turn, turns, threads_};
    cpu_result done = bunch_.visit([&](const auto& columns) {
      return tracking::run(p, columns, how);
    });
    for (std::int64_t k = 0; k < turns; ++k) {
      for (std::size_t r = 0; r < p.records.size(); ++r) {
        const lattice::record_point& at = p.records[r];
        const std::size_t i = static_cast<std::size_t>(k) * p.records.size() + r;
        moment_record record{how.first_turn + k, at.element, at.slice, at.ref,
                             beam::finish(done.records[i])};
        record.ref.s += static_cast<double>(k) * way_.ds;
        record.ref.t += static_cast<double>(k) * way_.dt;
        result_.records.push_back(record);
      }
    }
    result_.lost += done.losses.size();
    if (!done.losses.empty()) bunch_.remove(done.losses);
  }

  void record_start() {
    result_.records.push_back(
        {options_.first_turn, -1, 0, bunch_.ref, bunch_.moments(threads_)});
  }

  void report(std::int64_t turns, std::size_t elements) {
    result_.turn = turns;
    result_.element = elements;
    if (!options_.on_progress) return;
    const double n = static_cast<double>(std::max<std::size_t>(line_.elements.size(), 1));
    const double part = (static_cast<double>(turns) + static_cast<double>(elements) / n) /
                        static_cast<double>(options_.turns);
    if (!options_.on_progress(part) && turns < options_.turns) result_.interrupted = true;
  }

  const lattice::line& line_;
  beam::bunch& bunch_;
  const track_options& options_;
  lattice::compile_options compile_;
  unsigned threads_;
  track_result result_;
  turn_motion way_{};
};

}  // namespace

track_result track(const lattice::line& l, beam::bunch& b, const track_options& options) {
  return driver(l, b, options).run();
}

}  // namespace betatron::tracking
