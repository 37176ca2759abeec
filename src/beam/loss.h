// loss.h: why and where a particle left the beam.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

namespace betatron::beam {

/// Why a particle left the beam.
enum class loss_reason : std::uint8_t {
  aperture,        // met an aperture
  non_finite,      // a coordinate became infinite or NaN
  outside_domain,  // turned back, or outside the domain of an element's map
  outside_bucket,  // left the bucket with an absorbing longitudinal boundary
  user,            // taken out by code of the user
};

/// "aperture", "non_finite", "outside_domain", "outside_bucket" or "user".
std::string_view name_of(loss_reason reason);

/// A particle that left the beam: its state when it did, and where.
struct lost_particle {
  std::uint64_t id;
  double x, px, y, py, t, pt, weight;
  double s;              // path length of the reference particle [m]
  std::int64_t turn;     // counted from 0
  std::int64_t element;  // index in the flattened line
  loss_reason reason;
  std::optional<std::array<double, 3>> spin = std::nullopt;  // of beams with spins

  friend bool operator==(const lost_particle&, const lost_particle&) = default;
};

}  // namespace betatron::beam
