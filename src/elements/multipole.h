// multipole.h: magnets that are a sum of multipoles, thick or thin: Multipole, Sextupole, Octupole.
//
//   H = H_drift + Re sum_n (k_n + i ks_n) (x + i y)^(n+1)/(n+1)!
//
// tracked by split integration between the drift of the chosen model and the kick
//   dpx - i dpy = -sum_n (kl_n + i ksl_n) (x + i y)^n / n!
// of which a thin magnet is a single one. Source: MAD-X physical methods manual; E. Forest (1998), sec. 12.
#pragma once

#include <algorithm>
#include <initializer_list>

#include "elements/drift.h"
#include "elements/element.h"
#include "elements/phase_space.h"
#include "elements/spin.h"

namespace betatron::elements {

inline constexpr int max_multipole = 20;  ///< largest order n; n = 0 is the dipole

/// Kick of up to max_multipole + 1 orders: coefficients divided by n!.
template <class R>
struct multipole_kick {
  R highest;  ///< largest n in use, a whole number
  R normal[max_multipole + 1], skew[max_multipole + 1];

  static constexpr unsigned writes = column::px | column::py;
  static constexpr spin_effect spin = spin_effect::turned;

  static constexpr beam::loss_reason loss = beam::loss_reason::non_finite;

  template <class T>
  BETATRON_INLINE mask_of<T> push(phase_space<T>& z, const energy<T>&) const {
    using F = scalar_of<T>;
    int n = static_cast<int>(value_of(highest));
    T re = T(normal[n]), im = T(skew[n]);
    for (--n; n >= 0; --n) {
      const T next = re * z.x - im * z.y + normal[n];
      im = re * z.y + im * z.x + skew[n];
      re = next;
    }
    z.px = z.px - re;
    z.py = z.py + im;
    return abs(re) + abs(im) <= T(std::numeric_limits<F>::max());
  }
  template <class T>
  BETATRON_INLINE void turn_spin(vector3<T>& s, const phase_space<T>& before,
                                 const phase_space<T>& behind, const energy<T>& e,
                                 const gyration<R>& g) const {
    turn_spin_by_kick(s, before, behind, e, g);
  }
  multipole_kick inverse() const {
    multipole_kick r = *this;
    for (int n = 0; n <= max_multipole; ++n) {
      r.normal[n] = -normal[n];
      r.skew[n] = -skew[n];
    }
    return r;
  }
};

namespace detail {

struct multipole_strengths {
  const double* normal;
  std::size_t normal_count;
  const double* skew;
  std::size_t skew_count;

  bool empty() const {
    auto zero = [](double k) { return k == 0; };
    return std::all_of(normal, normal + normal_count, zero) &&
           std::all_of(skew, skew + skew_count, zero);
  }
};

/// Coefficients k_n `factor`/n!; all orders of the lists count, or those up to the highest that is not zero.
inline multipole_kick<double> scaled_kick(const multipole_strengths& m, double factor,
                                          bool all_orders = false) {
  multipole_kick<double> kick{};
  std::size_t highest = 0;
  double inverse_factorial = 1;
  for (std::size_t n = 0; n <= static_cast<std::size_t>(max_multipole); ++n) {
    if (n > 0) inverse_factorial /= static_cast<double>(n);
    const double normal = n < m.normal_count ? m.normal[n] : 0;
    const double skew = n < m.skew_count ? m.skew[n] : 0;
    kick.normal[n] = normal * inverse_factorial * factor;
    kick.skew[n] = skew * inverse_factorial * factor;
    const bool listed = all_orders && n < std::max(m.normal_count, m.skew_count);
    if (normal != 0 || skew != 0 || listed) highest = n;
  }
  kick.highest = static_cast<double>(highest);
  return kick;
}

/// Integrated strengths m over `length`; one kick if the length is 0.
template <class Emit>
void emit_multipoles(double length, const multipole_strengths& m, const slice& s, Emit&& emit) {
  if (length == 0) {
    if (!m.empty() || s.keep_structure) emit(scaled_kick(m, 1, s.keep_structure));
    return;
  }
  const double piece = length * s.fraction;
  if (m.empty() && !s.keep_structure) return emit_drift(piece, s, emit);
  split(
      piece, {}, s, emit, [&](double l) { emit_drift(l, s, emit); },
      [&](double l) { emit(scaled_kick(m, l / length, s.keep_structure)); });
}

}  // namespace detail

struct multipole {
  double length = 0;
  std::vector<double> knl{};
  std::vector<double> ksl{};

  static constexpr std::string_view kind = "Multipole";
  static constexpr std::string_view doc =
      "A sum of normal and skew multipoles with integrated strengths knl[n], ksl[n] (n = 0: dipole, which "
      "kicks but does not bend the reference orbit), thin if length is 0. A negative length tracks back.";
  static constexpr auto parameters = std::tuple{
      parameter{"length", &multipole::length, "m", "length"},
      parameter{"knl", &multipole::knl, "1/m^n", "integrated normal strengths, n = 0 ... 20"},
      parameter{"ksl", &multipole::ksl, "1/m^n", "integrated skew strengths, n = 0 ... 20"},
  };
};

template <class Emit>
void emit_maps(const multipole& m, const slice& s, Emit&& emit) {
  detail::emit_multipoles(m.length, {m.knl.data(), m.knl.size(), m.ksl.data(), m.ksl.size()}, s,
                          emit);
}

struct sextupole {
  double length = 0;
  double k2 = 0;
  double k2s = 0;

  static constexpr std::string_view kind = "Sextupole";
  static constexpr std::string_view doc = "A sextupole, integrated by `order` and `steps`.";
  static constexpr auto parameters = std::tuple{
      parameter{"length", &sextupole::length, "m", "length", range::positive, required},
      parameter{"k2", &sextupole::k2, "1/m^3", "normal strength"},
      parameter{"k2s", &sextupole::k2s, "1/m^3", "skew strength"},
  };
};

template <class Emit>
void emit_maps(const sextupole& m, const slice& s, Emit&& emit) {
  const double normal[] = {0, 0, m.k2 * m.length}, skew[] = {0, 0, m.k2s * m.length};
  detail::emit_multipoles(m.length, {normal, 3, skew, 3}, s, emit);
}

struct octupole {
  double length = 0;
  double k3 = 0;
  double k3s = 0;

  static constexpr std::string_view kind = "Octupole";
  static constexpr std::string_view doc = "An octupole, integrated by `order` and `steps`.";
  static constexpr auto parameters = std::tuple{
      parameter{"length", &octupole::length, "m", "length", range::positive, required},
      parameter{"k3", &octupole::k3, "1/m^4", "normal strength"},
      parameter{"k3s", &octupole::k3s, "1/m^4", "skew strength"},
  };
};

template <class Emit>
void emit_maps(const octupole& m, const slice& s, Emit&& emit) {
  const double normal[] = {0, 0, 0, m.k3 * m.length}, skew[] = {0, 0, 0, m.k3s * m.length};
  detail::emit_multipoles(m.length, {normal, 4, skew, 4}, s, emit);
}

}  // namespace betatron::elements
