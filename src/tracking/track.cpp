#include "tracking/track.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>

#include "tracking/cpu/executor.h"

namespace betatron::tracking {

namespace {

using beam::reference;
using lattice::direction;

/// Particle-operations between two calls of on_progress: at most about a quarter of a second.
constexpr double work_per_chunk = 2.5e8;

/// Memory for records of one run of the executor, unless a monitor has its own limit [bytes].
constexpr std::size_t record_memory = 64 << 20;

void check(const lattice::line& l, const track_options& o) {
  const monitor& m = o.monitor;
  const bool monitored = !m.moments_at.empty() || !m.observed_at.empty();
  if (monitored != static_cast<bool>(m.write)) {
    throw std::invalid_argument("a monitor needs elements and somewhere to write to");
  }
  if (m.every < 1) {
    throw std::invalid_argument("monitor: every = " + std::to_string(m.every) +
                                " is not allowed; allowed: >= 1");
  }
  for (const auto& flags : {m.moments_at, m.observed_at}) {
    check_flags("monitor", flags, l);
  }
  check_turns(o.turns);
  check_flags("record", o.recorded, l);
  if (!o.hooks.empty() && o.way == direction::backward) {
    throw std::invalid_argument("hooks cannot be undone: backward tracking needs none");
  }
  for (const effect& e : o.collective) {
    if (!e.kick) throw std::invalid_argument(e.name + " has no kick on particles");
    if (o.way == direction::backward && !e.reversible) {
      throw std::invalid_argument(e.name + " cannot be undone: it cannot be tracked backward");
    }
  }
}

/// What a stretch of lattice does to the place of the reference particle: a rigid motion, the same wherever the
/// stretch begins.
struct rigid_motion {
  double ds = 0, dt = 0;
  std::array<double, 3> shift{};     // in the frame at the start
  std::array<double, 9> rotation{};  // frame at the end = rotation frame at the start

  rigid_motion(const reference& start, const reference& end)
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

/// The flags that are set in one of them; empty is none.
std::vector<std::uint8_t> either(const std::vector<std::uint8_t>& a,
                                 const std::vector<std::uint8_t>& b) {
  if (a.size() != b.size()) return a.empty() ? b : a;  // if none is empty, check() objects
  std::vector<std::uint8_t> r = a;
  for (std::size_t i = 0; i < r.size(); ++i) r[i] |= b[i];
  return r;
}

/// One call of `track`: a turn is cut into chunks of elements, or several turns make one chunk.
class driver {
 public:
  driver(const lattice::line& l, beam::bunch& b, const track_options& o)
      : line_(l), bunch_(b), options_(o), recorded_(either(o.recorded, o.monitor.moments_at)) {
    compile_.way = o.way;
    compile_.recorded = recorded_;
    compile_.record_slices = o.record_slices;
    compile_.observed = o.monitor.observed_at;
    compile_.boundary = o.boundary;
    compile_.bucket_length = o.bucket_length;
    compile_.spin = o.spin;
    compile_.radiation = o.radiation;
    find_observed();
    threads_ = o.threads != 0 ? o.threads : available_threads();
  }

  track_result run() {
    check(line_, options_);
    if (options_.spin && !bunch_.has_spin()) {
      throw std::invalid_argument("spins cannot be tracked: the beam has none");
    }
    const std::size_t n = line_.elements.size();
    // compiling everything once first: errors come before the first particle has moved
    reference end = bunch_.ref;
    lattice::program turn = lattice::compile(line_, 0, n, end, compile_);
    const bool stops = !options_.collective.empty() || !options_.hooks.empty();
    std::vector<kicked_stretch> stretches;
    if (stops) {
      stretches = cut_at_kicks(line_, options_.collective, options_.hooks);
      bunch_.check_finite();  // here, and not at the first kick, when particles have moved
      for (const effect& e : options_.collective) {
        if (e.begin) e.begin(line_, bunch_, options_.way);
      }
    }
    if (options_.record_start) record_start();
    if (options_.turns == 0) return result_;
    if (stops) return run_with_stops(end, std::move(stretches));

    // not divided by the number of threads: where a run is cut decides when lost particles leave the columns,
    // and with that the rounding of moments
    const double effort = static_cast<double>(std::max<std::size_t>(bunch_.size(), 1)) *
                          std::max(lattice::work_of(turn.operations, turn), 1.0);
    const bool same_maps = end.kinetic == bunch_.ref.kinetic && !lattice::follows_clock(line_);
    entrance_ = bunch_.ref;
    exit_ = end;
    const bool watched = static_cast<bool>(options_.on_progress);
    for (std::int64_t done = 0; done < options_.turns && !result_.interrupted;) {
      if (watched && effort > 2 * work_per_chunk) {
        run_in_pieces(done, static_cast<std::size_t>(std::ceil(effort / work_per_chunk)));
        ++done;
      } else if (same_maps) {
        std::int64_t together = options_.turns - done;
        if (watched || !turn.records.empty()) {
          const double fit = std::max(1.0, work_per_chunk / effort);
          together =
              static_cast<std::int64_t>(std::min<double>(static_cast<double>(together), fit));
        }
        together = std::min(together, turns_in_memory(turn));
        end = bunch_.ref;
        for (std::int64_t k = 0; k < together; ++k) end = seen_from(end, exit_);
        run_program(turn, done, together, end);
        done += together;
        report(done, 0);
      } else {
        if (done > 0) {
          end = bunch_.ref;
          turn = lattice::compile(line_, 0, n, end, compile_);
          entrance_ = bunch_.ref;
        }
        run_program(turn, done, 1, end);
        ++done;
        report(done, 0);
      }
    }
    return result_;
  }

 private:
  /// All turns, stretch by stretch with hooks and kicks in between. Maps are made when the beam comes to them: a hook
  /// may have changed an element. `end`: the reference particle behind the first turn, `stretches`: those of the line as
  /// it is now.
  track_result run_with_stops(const reference& end, std::vector<kicked_stretch> stretches) {
    const bool forward = options_.way == direction::forward;
    const bool hooked = !options_.hooks.empty();
    const bool same_maps =
        !hooked && end.kinetic == bunch_.ref.kinetic && !lattice::follows_clock(line_);
    struct compiled {
      lattice::program maps, marks;
      reference start, end;
    };
    std::vector<compiled> programs;
    for (std::int64_t turn = 0; turn < options_.turns && !result_.interrupted; ++turn) {
      call_hooks(hook_point::before_turn, 0, 0, turn);
      if (turn == 0 || hooked) {
        if (hooked) stretches = cut_at_kicks(line_, options_.collective, options_.hooks);
        programs.assign(stretches.size(), {});
        slices_.clear();
        for (const auto& e : line_.elements) slices_.push_back(lattice::slice_count(*e));
      }
      for (std::size_t n = 0; n < stretches.size() && !result_.interrupted; ++n) {
        const kicked_stretch& here = stretches[forward ? n : stretches.size() - 1 - n];
        for (const kicked_stretch::hook_call& c : here.hooks) call_hook(c, turn);
        if (forward) kick(here.kicks, turn);
        compiled& p = programs[n];
        if (turn == 0 || !same_maps) {
          if (hooked) check_slices(here);
          p.start = p.end = bunch_.ref;
          p.maps = lattice::compile(line_, here.first, here.last, p.end, compile_);
          // what is in front of the kicks when going forward is behind them when going backward
          if (!forward && !here.kicks.empty()) p.marks = lattice::split_off_marks(p.maps, p.end);
        }
        reference behind = p.end;
        if (!(p.start == bunch_.ref)) {
          behind = bunch_.ref;
          rigid_motion(p.start, p.end).apply(behind);
        }
        run_stretch(p.maps, p.start, turn, behind);
        if (!forward) {
          kick(here.kicks, turn);
          if (!p.marks.operations.empty()) run_stretch(p.marks, p.end, turn, behind);
        }
        const lattice::position& reached = forward ? here.last : here.first;
        const bool at_end = n + 1 == stretches.size();
        if (at_end) call_hooks(hook_point::after_turn, line_.elements.size(), 0, turn);
        if (at_end || reached.part == 0) {
          const std::size_t passed =
              forward ? reached.element : line_.elements.size() - reached.element;
          report(at_end ? turn + 1 : turn, at_end ? 0 : passed);
        }
      }
    }
    return result_;
  }

  /// `start`: where the program was compiled from. `end`: the reference particle behind it in this turn.
  void run_stretch(const lattice::program& p, const reference& start, std::int64_t turn,
                   const reference& end) {
    entrance_ = start;
    if (p.operations.empty()) {
      bunch_.ref = end;
    } else {
      run_program(p, turn, 1, end);
    }
  }

  /// Where the beam stops was found with other slices than elements have now.
  void check_slices(const kicked_stretch& here) const {
    const std::size_t end = here.last.part > 0 ? here.last.element + 1 : here.last.element;
    for (std::size_t i = here.first.element; i < end; ++i) {
      const lattice::element& e = *line_.elements[i];
      if (lattice::slice_count(e) == slices_[i]) continue;
      throw std::invalid_argument("a hook has changed the slices of " + lattice::describe(e) +
                                  " within a turn; allowed: before_turn");
    }
  }

  /// All hooks of this kind that are not restricted to other elements.
  void call_hooks(hook_point point, std::size_t element, int slice, std::int64_t turn) {
    for (std::size_t h = 0; h < options_.hooks.size(); ++h) {
      const hook& now = options_.hooks[h];
      if (now.point != point ||
          (point == hook_point::after_kick && !now.at.empty() && now.at[element] == 0)) {
        continue;
      }
      call_hook({h, element, slice}, turn);
    }
  }

  void call_hook(const kicked_stretch::hook_call& c, std::int64_t turn) {
    const hook& now = options_.hooks[c.hook];
    hook_place place = place_of(line_, now, c);
    place.turn = options_.first_turn + turn;
    place.effects = options_.collective;
    with_code([&] { now.call(bunch_, place); });
  }

  /// Runs code that may take particles out of the beam.
  template <class Code>
  void with_code(Code&& code) {
    const std::size_t lost = bunch_.lost.size(), particles = bunch_.size();
    code();
    if (bunch_.lost.size() > lost) result_.lost += bunch_.lost.size() - lost;
    if (bunch_.size() != particles) find_observed();
  }

  /// Backward: undoes them, the last first.
  void kick(const std::vector<kicked_stretch::kick>& kicks, std::int64_t turn) {
    const bool forward = options_.way == direction::forward;
    for (std::size_t k = 0; k < kicks.size(); ++k) {
      const kicked_stretch::kick& now = kicks[forward ? k : kicks.size() - 1 - k];
      kick_place place = place_of(line_, now);
      place.ref = bunch_.ref;
      place.turn = options_.first_turn + turn;
      place.threads = threads_;
      if (!forward) place.length = -place.length;
      const effect& acting = options_.collective[now.effect];
      if (acting.met_wall) lose_at(acting.met_wall(bunch_, threads_), place);
      acting.kick(bunch_, place);
    }
    if (kicks.empty()) return;
    call_hooks(hook_point::after_kick, kicks.front().element, kicks.front().slice, turn);
  }

  void lose_at(const std::vector<std::size_t>& particles, const kick_place& place) {
    if (particles.empty()) return;
    std::vector<beam::bunch::loss> losses;
    for (const std::size_t k : particles) {
      losses.push_back({k, place.ref.s, place.turn, static_cast<std::int64_t>(place.element),
                        beam::loss_reason::aperture});
    }
    with_code([&] { bunch_.remove(losses); });
  }

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
      reference end = entrance_ = bunch_.ref;
      const lattice::program p = lattice::compile(line_, first, last, end, compile_);
      run_program(p, turn, 1, end);
      const std::size_t passed = n * (k + 1) / pieces;
      report(passed == n ? turn + 1 : turn, passed == n ? 0 : passed);
    }
  }

  /// All particles through the program, `turns` times; the reference particle is at `end` afterwards.
  void run_program(const lattice::program& p, std::int64_t turn, std::int64_t turns,
                   const reference& end) {
    cpu_run how{options_.first_turn + turn, turns, threads_};
    const monitor& m = options_.monitor;
    if (options_.recorded.empty()) how.record_every = m.every;
    how.observe_every = m.every;
    how.slots = m.particles.size();
    std::vector<std::int64_t> observed_turns;
    for (std::int64_t k = 0; m.write && k < turns; ++k) {
      if ((how.first_turn + k) % m.every == 0) observed_turns.push_back(how.first_turn + k);
    }
    std::vector<double> coordinates(p.observations.size() * 6 * observed_turns.size() * how.slots,
                                    std::numeric_limits<double>::quiet_NaN());
    how.observations = coordinates.data();
    reference start = bunch_.ref;
    std::vector<beam::moment_sums> taken;
    for (std::size_t k = 0; k < p.operations.size(); ++k) {
      const lattice::operation& op = p.operations[k];
      if (op.code != lattice::operation::call) continue;
      const elements::code_call& call = p.calls[op.coefficients];
      const bool stops = call.tiles != nullptr && !call.tiles->stops.empty();
      if (call.beam == nullptr && !stops) continue;
      how.last = k;
      run_part(p, how, start, taken);
      how.first = k;
      how.last = k + 1;
      if (stops) {
        run_or_stop(p, how, start, taken);
      } else {
        call_code(call, op.element, how.first_turn);
      }
      how.first = k + 1;
    }
    how.last = p.operations.size();
    run_part(p, how, start, taken);
    std::vector<moment_record> seen;  // by the monitor
    auto sums = taken.begin();
    for (std::int64_t k = 0; k < turns; ++k) {
      const std::int64_t number = how.first_turn + k;
      if (number % how.record_every == 0) {
        for (const lattice::record_point& at : p.records) {
          const moment_record record{number, at.element, at.slice, seen_from(start, at.ref),
                                     beam::finish(*sums++, bunch_.has_spin())};
          if (is_set(options_.recorded, at.element)) result_.records.push_back(record);
          if (is_set(m.moments_at, at.element) && number % m.every == 0) seen.push_back(record);
        }
      }
      if (k + 1 < turns) start = seen_from(start, exit_);
    }
    bunch_.ref = end;
    if (!seen.empty() || !coordinates.empty()) {
      m.write({observed_turns, seen, p.observations, coordinates});
    }
  }

  /// Some operations of a program that began at `start`; moments are added to `taken`, lost particles leave the beam.
  void run_part(const lattice::program& p, cpu_run& how, const reference& start,
                std::vector<beam::moment_sums>& taken) {
    if (how.first == how.last) return;
    how.observed = observed_;
    cpu_result done =
        bunch_.visit([&](const auto& columns) { return tracking::run(p, columns, how); });
    settle(std::move(done), how, start, taken);
  }

  /// run_part for one operation: tile code that stops where particles are outside. The program was made from where the
  /// beam is, as with code for the whole beam.
  void run_or_stop(const lattice::program& p, cpu_run& how, const reference& start,
                   std::vector<beam::moment_sums>& taken) {
    const lattice::operation& op = p.operations[how.first];
    const elements::code_call& call = p.calls[op.coefficients];
    bunch_.ref = call.entrance;
    how.observed = observed_;
    cpu_result done = bunch_.visit([&](const auto& columns) {
      using value = typename std::remove_cvref_t<decltype(columns)>::value_type;
      std::vector<value> before(6 * columns.size);
      for (std::size_t c = 0; c < 6; ++c) {
        std::copy_n(columns.z[c], columns.size, before.data() + c * columns.size);
      }
      cpu_result found = tracking::run(p, columns, how);
      const auto outside = std::ranges::count(found.losses, beam::loss_reason::outside_domain,
                                              &beam::bunch::loss::reason);
      if (outside == 0) return found;
      for (std::size_t c = 0; c < 6; ++c) {
        std::copy_n(before.data() + c * columns.size, columns.size, columns.z[c]);
      }
      elements::stop_for(*call.tiles, call.at(how.first_turn, op.element),
                         lattice::describe(*line_.elements[static_cast<std::size_t>(op.element)]),
                         static_cast<std::size_t>(outside), columns.size);
    });
    settle(std::move(done), how, start, taken);
  }

  /// Moments are added to `taken`, and lost particles leave the beam.
  void settle(cpu_result&& done, const cpu_run& how, const reference& start,
              std::vector<beam::moment_sums>& taken) {
    if (taken.empty()) {
      taken = std::move(done.records);
    } else {
      for (std::size_t i = 0; i < taken.size(); ++i) taken[i].merge(done.records[i]);
    }
    if (done.losses.empty()) return;
    for (beam::bunch::loss& loss : done.losses) {
      const double turns_before = static_cast<double>(loss.turn - how.first_turn);
      loss.s += start.s - entrance_.s + turns_before * (exit_.s - entrance_.s);
    }
    result_.lost += done.losses.size();
    bunch_.remove(done.losses);
    find_observed();
  }

  /// Code that takes the whole beam through a slice. The program was made from where the beam is: a line with such code
  /// follows the clock.
  void call_code(const elements::code_call& call, std::int32_t element, std::int64_t turn) {
    bunch_.ref = call.inverse ? call.exit : call.entrance;
    const auto& code = call.inverse ? call.beam->inverse : call.beam->push;
    with_code([&] { code(bunch_, call.at(turn, element)); });
  }

  static bool is_set(const std::vector<std::uint8_t>& flags, std::int32_t element) {
    return !flags.empty() && flags[static_cast<std::size_t>(element)] != 0;
  }

  /// Where the particles of the monitor are in the columns.
  void find_observed() {
    const std::vector<std::uint64_t>& ids = options_.monitor.particles;
    if (ids.empty()) return;
    std::unordered_map<std::uint64_t, std::size_t> slots;
    for (std::size_t i = 0; i < ids.size(); ++i) slots.emplace(ids[i], i);
    observed_.clear();
    bunch_.visit([&](const auto& columns) {
      for (std::size_t i = 0; i < columns.size; ++i) {
        const auto found = slots.find(columns.id[i]);
        if (found != slots.end()) observed_.push_back({i, found->second});
      }
    });
  }

  /// Turns whose records and observations fit into memory, at least one.
  std::int64_t turns_in_memory(const lattice::program& p) const {
    const monitor& m = options_.monitor;
    const std::size_t limit = m.write ? m.chunk_bytes : record_memory;
    const std::size_t blocks = std::clamp<std::size_t>(bunch_.size() / 384, 1, 64);
    const std::size_t records =
        p.records.size() * (blocks * sizeof(beam::moment_sums) + sizeof(moment_record));
    const std::size_t observations =
        p.observations.size() * 6 * m.particles.size() * sizeof(double);
    const auto fit = [&](std::size_t bytes, std::int64_t every) {
      if (bytes == 0) return std::numeric_limits<std::int64_t>::max();
      const auto turns = static_cast<std::int64_t>(std::max<std::size_t>(1, limit / bytes));
      return turns <= options_.turns / every ? turns * every : std::max(every, options_.turns);
    };
    return std::min(fit(records, options_.recorded.empty() ? m.every : 1),
                    fit(observations, m.every));
  }

  /// A place in the program, which was compiled from entrance_ on, in a turn that begins at `start`.
  reference seen_from(const reference& start, const reference& place) const {
    if (start == entrance_) return place;
    reference r = start;
    rigid_motion(entrance_, place).apply(r);
    r.kinetic = place.kinetic;
    return r;
  }

  void record_start() {
    result_.records.push_back({options_.first_turn, -1, 0, bunch_.ref, bunch_.moments(threads_)});
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
  const std::vector<std::uint8_t> recorded_;  // for result_ or for the monitor
  std::vector<observed_particle> observed_{};
  lattice::compile_options compile_{};
  unsigned threads_;
  std::vector<int> slices_;  // of the elements, when a turn with hooks began
  track_result result_;
  reference entrance_{};  // where the program in use begins
  reference exit_{};      // where a turn that begins there ends, if the energy stays the same
};

}  // namespace

void check_turns(std::int64_t turns, std::int64_t least) {
  if (turns < least) {
    throw std::invalid_argument("turns = " + std::to_string(turns) +
                                " is not allowed; allowed: >= " + std::to_string(least));
  }
}

void check_flags(const char* what, const std::vector<std::uint8_t>& flags, const lattice::line& l) {
  if (!flags.empty() && flags.size() != l.elements.size()) {
    throw std::invalid_argument(std::string(what) + " has " + std::to_string(flags.size()) +
                                " flags for a line of " + std::to_string(l.elements.size()) +
                                " elements");
  }
}

track_result track(const lattice::line& l, beam::bunch& b, const track_options& options) {
  return driver(l, b, options).run();
}

}  // namespace betatron::tracking
