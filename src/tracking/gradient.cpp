#include "tracking/gradient.h"

#include <algorithm>
#include <cmath>
#include <sstream>
#include <stdexcept>
#include <variant>

#include "beam/text.h"
#include "tracking/company.h"
#include "tracking/cpu/executor.h"
#include "tracking/cpu/forward_mode.h"
#include "tracking/cpu/forward_pass.h"
#include "tracking/cpu/reverse_pass.h"
#include "tracking/record_pull.h"
#include "tracking/rewind_scale.h"
#include "tracking/section.h"
#include "tracking/turns.h"

namespace betatron::tracking {

/// What both precisions share.
struct gradient::state {
  const beam::bunch& bunch;
  gradient_options options;
  lattice::line turn;   ///< one turn
  repeated_line whole;  ///< all of them
  unsigned threads;
  beam::reference start;
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
      : bunch(b),
        options(std::move(o)),
        turn(l),
        whole(turn, options.recorded, options.turns),
        threads(options.threads),
        start(b.ref) {
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
      const effect& acting = options.collective[k.effect];
      if (acting.met_wall && !acting.met_wall(b, threads).empty()) {
        throw std::invalid_argument(
            acting.name + ": a particle meets the wall of the pipe in " +
            lattice::describe(*turn.elements[k.element]) +
            " at s = " + beam::number_text(place.ref.s) +
            " m; gradients need beams within the pipe, or apertures in front that lose it");
      }
      acting.kick(b, place);
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
    std::vector<double> contributions;         // see sensitivity::collect
    std::array<double, 6> error{}, squares{};  // of the rewound beam
    std::vector<double> by_kinetic;            // at each stop
    std::vector<double> knobs;                 // directly through kicks
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
  void replay(const forward_pass<F>& pass, const beam::columns<const F>& columns, std::size_t n,
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
  std::vector<lattice::position> stops;
  if (!options.collective.empty()) {
    const auto varied = lattice::varied_lengths(turn, options.knobs);
    stretches = cut_at_kicks(turn, options.collective, {}, varied);
  }
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
  wanted.recorded = whole.recorded;
  wanted.record_start = options.record_start;
  wanted.record_end = true;
  wanted.stops = stops;
  wanted.radiation = options.radiation;
  wanted.boundary = options.boundary;
  wanted.bucket_length = options.bucket_length;
  plan = lattice::differentiate(whole.line, start, wanted);
  sections = sections_of(plan);
  if (stops.empty()) return;
  for (const lattice::knob& k : options.knobs) geometry_.push_back(lattice::geometry_of(k));
}

template <class F>
void gradient::state::track(const beam::columns<const F>& columns) {
  auto memory = std::make_shared_for_overwrite<F[]>(6 * columns.size);
  const std::array<F*, 6> z = columns_in(memory.get(), columns.size);
  const forward_pass<F> pass(plan, turn.elements.size());
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
    pass.run(sections[n], n == 0 ? columns : beam.columns(), z, threads, sums, dead[n],
             kept.data());
    check_stops<F>(dead[n], plan.forward, turn, n == 0 ? columns.size : beam.columns().size);
    beam.identify(dead[n]);
    for (std::size_t i = 0; i < sums.size(); ++i) {
      records.push_back(record_of(plan.forward.records[sections[n].first_record + i],
                                  turn.elements.size(), sums[i]));
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
void gradient::state::replay(const forward_pass<F>& pass, const beam::columns<const F>& columns,
                             std::size_t n, company<F>& beam) const {
  const auto& dead = std::get<std::vector<std::vector<casualty<F>>>>(casualties);
  std::vector<beam::moment_sums> sums;
  std::vector<casualty<F>> found;  // as the first time
  pass.run(sections[n], n == 0 ? columns : beam.columns(), beam.coordinates(), threads, sums,
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
  const forward_pass<F> pass(plan, turn.elements.size());
  const reverse_pass<F> back(pass);
  const reverse_pool<F> pool(plan);
  reverse_sums sums;
  sums.by_kinetic.assign(plan.stops.size(), 0.0);
  sums.knobs.assign(options.knobs.size(), 0.0);
  std::vector<numerics::compensated_sum> contributions(plan.sums);
  typename reverse_pass<F>::reverse_request section_request;
  section_request.pool = &pool;
  section_request.records = pulls;
  section_request.keep_states = keep_states;
  section_request.entrances = std::get<std::vector<std::vector<F>>>(entrances).data();
  const auto run = [&](std::size_t m) {
    section_request.part = &sections[m];
    section_request.casualties = dead[m];
    const auto r = back.run(threads, section_request);
    for (std::size_t k = 0; k < contributions.size(); ++k) contributions[k].add(r.sums[k]);
    if (m > 0) return;
    sums.error = r.error;
    sums.squares = r.squares;
    for (const auto& c : contributions) sums.contributions.push_back(c.value());
  };
  section_request.by_end = request.by_particles;
  section_request.by_start = request.initial;
  if (count == 1) {
    section_request.start = columns;
    section_request.end = columns_in<const F>(end, n);
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
  check_turns(options.turns, 1);
  if (!options.collective.empty()) b.check_finite();
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

namespace {

/// What of a result is not finite; empty if nothing is.
template <class F>
std::string not_finite(const pull_result& r, const std::vector<lattice::knob>& knobs,
                       const std::array<F*, 6>& initial, std::size_t n) {
  for (std::size_t k = 0; k < knobs.size(); ++k) {
    const lattice::knob& of = knobs[k];
    if (!std::isfinite(r.knobs[k])) return lattice::name_of(of) + " of " + describe(*of.of);
  }
  if (!std::isfinite(r.kinetic)) return "the energy of the reference";
  if (!std::isfinite(r.charge)) return "the charge of the beam";
  static constexpr const char* names[] = {"x", "px", "y", "py", "t", "pt"};
  for (std::size_t c = 0; c < 6 && initial[c]; ++c) {
    const F* wrong =
        std::find_if(initial[c], initial[c] + n, [](F value) { return !std::isfinite(value); });
    if (wrong == initial[c] + n) continue;
    return std::string("the initial ") + names[c] + " of particle " +
           std::to_string(wrong - initial[c]);
  }
  return {};
}

}  // namespace

template <class F>
pull_result gradient::pull(const pull_request<F>& request) const {
  state& s = *state_;
  const std::vector<record_pull> records = pulls_of(request.by_moments, s.records);
  const F* final = final_coordinates<F>().get();
  bool keep_states = request.strategy == reverse_strategy::checkpoint || s.overwritten;
  if (!s.plan.no_way_back.empty() && !keep_states) {
    if (request.strategy == reverse_strategy::rewind) {
      throw std::invalid_argument("a gradient cannot be rewound through " + s.plan.no_way_back +
                                  "; allowed: strategy auto or checkpoint, which keep states");
    }
    keep_states = true;
  }
  const double tolerance = request.tolerance > 0 ? request.tolerance : sizeof(F) == 8 ? 1e-8 : 1e-3;
  pull_result result;
  std::array<double, 6> scale{};
  if (!keep_states) {
    s.bunch.visit([&]<class G>(const beam::columns<const G>& columns) {
      if constexpr (std::is_same_v<F, G>) {
        const std::size_t n = columns.size;
        scale = rewind_scale<F>(columns.z, columns_in(final, n), n, s.plan.length);
      }
    });
  }
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
    if (!keep_states) {
      result.rewind_error = r.error;
      result.relative_rewind_error = relative_error(r.squares, s.bunch.size(), scale);
      if (!(result.relative_rewind_error <= tolerance)) {
        if (request.strategy == reverse_strategy::rewind) {
          std::ostringstream message;
          message << "the rewound beam is off by " << result.relative_rewind_error
                  << " of its extent; allowed: tolerance = " << tolerance
                  << ", or strategy checkpoint";
          throw std::runtime_error(message.str());
        }
        keep_states = true;
        continue;
      }
    }
    std::vector<double> by_kinetic;
    for (const moment_derivative& d : request.by_moments) by_kinetic.push_back(d.kinetic);
    auto collected =
        s.plan.collect(r.contributions, by_kinetic, r.by_kinetic, s.options.knobs.size());
    result.knobs = std::move(collected.knobs);
    for (std::size_t k = 0; k < result.knobs.size(); ++k) result.knobs[k] += r.knobs[k];
    result.kinetic = collected.kinetic;
    const double charge = std::fabs(s.bunch.charge());
    if (charge != 0) result.charge = r.charge / charge;
    result.checkpointed = keep_states;
    const std::string wrong = not_finite(result, s.options.knobs, request.initial, s.bunch.size());
    if (wrong.empty()) return result;
    if (!keep_states && request.strategy == reverse_strategy::automatic) {
      keep_states = true;
      continue;
    }
    throw std::runtime_error(
        "the derivative of the loss by " + wrong +
        " is not finite: it overflows, or is not defined, on the way from the end of the line");
  }
}

template <class F>
double gradient::push(const pull_request<F>& request, std::ptrdiff_t knob) const {
  const state& s = *state_;
  if (!s.options.collective.empty()) {
    throw std::invalid_argument(
        "forward mode does not follow collective effects; allowed: reverse mode");
  }
  if (s.options.radiation || s.options.boundary != elements::longitudinal_boundary::open) {
    throw std::invalid_argument(
        "forward mode does not follow radiation and boundaries of buckets; allowed: reverse mode");
  }
  if (knob < -1 || knob >= static_cast<std::ptrdiff_t>(s.options.knobs.size())) {
    throw std::invalid_argument("there is no knob number " + std::to_string(knob));
  }
  lattice::sensitivity_options wanted;
  wanted.knobs = s.options.knobs;
  wanted.recorded = s.whole.recorded;
  wanted.record_start = s.options.record_start;
  wanted.record_end = true;
  const lattice::forward_tangents tangents =
      lattice::differentiate_forward(s.whole.line, s.start, wanted, knob);
  const std::vector<record_pull> records = pulls_of(request.by_moments, s.records);
  double total = s.bunch.visit([&](const auto& columns) {
    if constexpr (std::is_same_v<std::remove_cvref_t<decltype(columns)>, beam::columns<const F>>) {
      const auto& dead = std::get<std::vector<std::vector<casualty<F>>>>(s.casualties);
      return forward_mode<F>(s.plan).run(s.threads, columns, dead[0], records, request, tangents);
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
