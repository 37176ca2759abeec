#include "tracking/envelope.h"

#include <limits>
#include <stdexcept>

namespace betatron::tracking {

namespace {

moment_record record_of(const envelope& e, std::int64_t turn, std::int32_t element,
                        std::int32_t slice) {
  beam::moments m;
  m.weight = 1;
  m.mean = e.mean;
  m.cov = e.covariance;
  m.min.fill(std::numeric_limits<double>::quiet_NaN());
  m.max = m.min;
  return {turn, element, slice, e.ref, m};
}

}  // namespace

std::vector<moment_record> track_envelope(const lattice::line& l, envelope& e,
                                          const envelope_options& options) {
  check_turns(options.turns);
  check_flags("record", options.recorded, l);
  for (const auto& element : l.elements) lattice::validate(*element);
  for (const effect& kicks : options.collective) {
    if (!kicks.envelope_kick) {
      throw std::invalid_argument(kicks.name + " has no form for envelope tracking");
    }
  }

  const auto kick = [&](const kicked_stretch::kick& now, std::int64_t turn) {
    kick_place place = place_of(l, now);
    place.ref = e.ref;
    place.turn = turn;
    const effect& acting = options.collective[now.effect];
    const beam::matrix6 matrix = acting.envelope_kick(e.mean, e.covariance, options.charge, place);
    if (options.visit) options.visit({e, matrix, nullptr, &place, now.effect, false});
    e.covariance = beam::sandwich(matrix, e.covariance);
  };

  const std::vector<kicked_stretch> stretches =
      cut_at_kicks(l, options.collective, {}, options.varied);
  std::vector<moment_record> records;
  if (options.record_start) records.push_back(record_of(e, options.first_turn, -1, 0));
  for (std::int64_t turn = 0; turn < options.turns; ++turn) {
    for (const kicked_stretch& stretch : stretches) {
      for (const auto& now : stretch.kicks) kick(now, options.first_turn + turn);
      for (const lattice::piece& p :
           lattice::pieces(l, stretch.first, stretch.last, lattice::direction::forward)) {
        const lattice::element& element = *l.elements[p.element];
        beam::reference behind = e.ref;
        const lattice::orbit_map map =
            lattice::derivative(element, p.index, p.count, behind, e.mean);
        const bool flagged = !options.recorded.empty() && options.recorded[p.element] != 0;
        const bool last = p.slice == lattice::slice_count(element) - 1;
        const bool recorded = flagged && p.ends_slice && (options.record_slices || last);
        if (options.visit) options.visit({e, map.matrix, &p, nullptr, 0, recorded});
        e.ref = behind;
        e.mean = map.orbit;
        e.covariance = beam::sandwich(map.matrix, e.covariance);
        if (recorded) {
          records.push_back(record_of(e, options.first_turn + turn,
                                      static_cast<std::int32_t>(p.element), p.slice));
        }
      }
    }
  }
  return records;
}

}  // namespace betatron::tracking
