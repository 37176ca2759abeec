// nonlinear_lens.h: the thin lens of the integrable optics of Danilov and Nagaitsev,
//
//   U = knl Re[zeta A(zeta)],   A = asin(zeta)/sqrt(1 - zeta^2),   zeta = (x + i y)/cnl
//   dpx - i dpy = -(knl/cnl) (zeta + A)/(1 - zeta^2)
//
// a magnetic field in free space, singular at x = +-cnl and cut along the x axis outside.
// Sources: V. Danilov and S. Nagaitsev, Phys. Rev. ST Accel. Beams 13 (2010) 084002; the element NLLENS of MAD-X.
#pragma once

#include "elements/element.h"
#include "elements/phase_space.h"
#include "elements/spin.h"
#include "numerics/arcsine.h"

namespace betatron::elements {

template <class R>
struct nonlinear_lens_kick {
  R strength, inv_c;  // knl/cnl, 1/cnl

  static constexpr unsigned writes = column::px | column::py;
  static constexpr spin_effect spin = spin_effect::turned;
  static constexpr beam::loss_reason loss = beam::loss_reason::outside_domain;

  template <class T>
  BETATRON_INLINE mask_of<T> push(phase_space<T>& z, const energy<T>&) const {
    using F = scalar_of<T>;
    using numerics::arcsine_ratio;
    const T x = z.x * inv_c, y = z.y * inv_c;
    const auto a = arcsine_ratio(x, y);
    const T g = (F(1) - x) * (x + F(1)) + y * y, k = x * y * F(-2);  // 1 - zeta^2
    const T size = g * g + k * k;
    const T scale = T(strength) / size;
    const T c = x + a.re, d = y + a.im;
    z.px = z.px - (c * g + d * k) * scale;
    z.py = z.py + (d * g - c * k) * scale;
    return abs(scale) <= T(std::numeric_limits<F>::max());
  }
  template <class T>
  BETATRON_INLINE void turn_spin(vector3<T>& s, const phase_space<T>& before,
                                 const phase_space<T>& behind, const energy<T>& e,
                                 const gyration<R>& g) const {
    turn_spin_by_kick(s, before, behind, e, g);
  }
  nonlinear_lens_kick inverse() const { return {-strength, inv_c}; }
};

struct nonlinear_lens {
  double knl = 0;
  double cnl = 0;

  static constexpr std::string_view kind = "NonlinearLens";
  static constexpr std::string_view doc =
      "A thin nonlinear lens of integrable optics (Danilov and Nagaitsev), as NLLENS of MAD-X. The same kick in "
      "every model but the linear one.";
  static constexpr auto parameters = std::tuple{
      parameter{"knl", &nonlinear_lens::knl, "m", "integrated strength", range::any, required},
      parameter{"cnl", &nonlinear_lens::cnl, "m", "distance of the singularities from the axis",
                range::positive, required},
  };
};

template <class Emit>
void emit_maps(const nonlinear_lens& l, const slice&, Emit&& emit) {
  emit(nonlinear_lens_kick<double>{l.knl / l.cnl, 1 / l.cnl});
}

}  // namespace betatron::elements
