// constant_focusing.h: linear focusing in all three planes, the model channel of beam theory.
//
//   H = (px^2 + py^2 + pt^2/(beta0 gamma0)^2)/2 + (Kx x^2 + Ky y^2 + Kt (t/...)^2)/2
//
// with Kx = kx |kx|: kx > 0 focuses, kx < 0 defocuses. The longitudinal motion is
//   t' = pt/(beta0 gamma0)^2,   pt' = -kt^2 (beta0 gamma0)^2 t,
// an oscillation with wave number kt. The map is linear in every model.
// Source: R. C. Davidson and H. Qin, Physics of Intense Charged Particle Beams (2001), ch. 4 (smooth focusing).
#pragma once

#include "elements/element.h"
#include "elements/linear_map.h"
#include "elements/phase_space.h"

namespace betatron::elements {

struct constant_focusing {
  double length = 0;
  double kx = 0;
  double ky = 0;
  double kt = 0;

  static constexpr std::string_view kind = "ConstantFocusing";
  static constexpr std::string_view doc =
      "Linear focusing in all planes with wave numbers kx, ky, kt; negative kx or ky defocus. Linear in "
      "every model. A negative length is allowed and tracks back.";
  static constexpr auto parameters = std::tuple{
      parameter{"length", &constant_focusing::length, "m", "length", range::any, required},
      parameter{"kx", &constant_focusing::kx, "1/m", "horizontal wave number"},
      parameter{"ky", &constant_focusing::ky, "1/m", "vertical wave number"},
      parameter{"kt", &constant_focusing::kt, "1/m", "longitudinal wave number",
                range::not_negative},
  };
};

template <class Emit>
void emit_maps(const constant_focusing& f, const slice& s, Emit&& emit) {
  const double l = f.length * s.fraction;
  matrix6 m{};
  auto plane = [&](std::size_t i, double k2, double scale) {  // q' = scale p, p' = -k2/scale q
    double c[4];
    stumpff<4>(k2 * l * l, std::fabs(k2) * l * l, c);
    m[7 * i] = m[7 * (i + 1)] = c[0];
    m[7 * i + 1] = l * c[1] * scale;
    m[7 * (i + 1) - 1] = -k2 * l * c[1] / scale;
  };
  plane(0, f.kx * std::fabs(f.kx), 1);
  plane(2, f.ky * std::fabs(f.ky), 1);
  plane(4, f.kt * f.kt, s.ref.inverse_beta_gamma_squared());
  emit_matrix(m, {}, s.ref.beta_gamma(), s.ref.beta_gamma(), emit, s.keep_structure);
}

}  // namespace betatron::elements
