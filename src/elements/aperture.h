// aperture.h: openings that particles outside (or inside) of which are lost: thin collimators and grids, and the
// pipe of an element with a length.
#pragma once

#include "elements/element.h"
#include "elements/phase_space.h"
#include "elements/spin.h"

namespace betatron::elements {

/// A grid of openings: periods (0: none) and their inverses; shift_odd is 0 or 1.
template <class R>
struct opening_grid {
  R period_x, inv_period_x, period_y, inv_period_y, shift_odd;

  static opening_grid make(double repeat_x, double repeat_y, bool shift_odd_x) {
    auto inverse_or_zero = [](double v) { return v != 0 ? 1 / v : 0; };
    return {repeat_x, inverse_or_zero(repeat_x), repeat_y, inverse_or_zero(repeat_y),
            shift_odd_x ? 1.0 : 0.0};
  }

  /// Moves a place into the cell around the axis.
  template <class T>
  BETATRON_INLINE void fold(T& x, T& y) const {
    using F = scalar_of<T>;
    if (period_y != R(0)) {
      const T row = round_to_integer(y * inv_period_y);
      y = y - row * period_y;
      if (shift_odd != R(0)) {
        const T odd = abs(row - round_to_integer(row * R(0.5)) * F(2));
        x = x + odd * (period_x * R(0.5));
      }
    }
    if (period_x != R(0)) x = x - round_to_integer(x * inv_period_x) * period_x;
  }
};

template <class R>
struct aperture_filter {
  R inv_x, inv_y;  // 1/half-widths
  opening_grid<R> grid;
  R elliptical, absorb;  // flags, 0 or 1

  static constexpr unsigned writes = 0;
  static constexpr spin_effect spin = spin_effect::none;
  static constexpr beam::loss_reason loss = beam::loss_reason::aperture;

  template <class T>
  BETATRON_INLINE mask_of<T> push(phase_space<T>& z, const energy<T>&) const {
    using F = scalar_of<T>;
    T x = z.x, y = z.y;
    grid.fold(x, y);
    const T u = x * inv_x, v = y * inv_y;
    const T one = T(F(1));
    const auto inside =
        elliptical != R(0) ? (u * u + v * v <= one) : ((abs(u) <= one) & (abs(v) <= one));
    return absorb != R(0) ? !inside : inside;
  }
  aperture_filter inverse() const { return *this; }
};

struct aperture {
  double x_max = 0;
  double y_max = 0;
  std::string shape = "rectangular";
  std::string action = "transmit";
  double repeat_x = 0;
  double repeat_y = 0;
  bool shift_odd_x = false;

  static constexpr std::string_view kind = "Aperture";
  static constexpr std::string_view doc =
      "A thin rectangular or elliptical opening; particles outside are lost (action transmit), or those "
      "inside (absorb). With repeat_x, repeat_y it is a grid of openings (a pepper pot).";
  static constexpr auto parameters = std::tuple{
      parameter{"x_max", &aperture::x_max, "m", "half-width", range::positive, required},
      parameter{"y_max", &aperture::y_max, "m", "half-height", range::positive, required},
      parameter{"shape", &aperture::shape, "rectangular|elliptical", "shape of the opening",
                std::string_view{}},
      parameter{"action", &aperture::action, "transmit|absorb",
                "what the opening does with particles inside", std::string_view{}},
      parameter{"repeat_x", &aperture::repeat_x, "m", "horizontal period (0: none)",
                range::not_negative},
      parameter{"repeat_y", &aperture::repeat_y, "m", "vertical period (0: none)",
                range::not_negative},
      parameter{"shift_odd_x", &aperture::shift_odd_x, "",
                "shift odd rows by half a horizontal period"},
  };
};

template <class Emit>
void emit_maps(const aperture& a, const slice&, Emit&& emit) {
  emit(aperture_filter<double>{
      1 / a.x_max, 1 / a.y_max, opening_grid<double>::make(a.repeat_x, a.repeat_y, a.shift_odd_x),
      a.shape == "elliptical" ? 1.0 : 0.0, a.action == "absorb" ? 1.0 : 0.0});
}

}  // namespace betatron::elements
