// rotation.h: changes of the coordinate frame: PoleFaceRotation, PlaneRotation, Patch; exact in every model but the
// linear one. A particle is carried along its straight line to the plane z = 0 of the new frame, where
//   r -> r + lambda p,  lambda = -z/pz,   t -> t + lambda P/beta - (path of the reference)/beta0.
// Sources: E. Forest, Beam Dynamics (1998), sec. 10 (PROT); D. Sagan, Bmad manual, ch. "Patch".
#pragma once

#include "elements/drift.h"
#include "elements/element.h"
#include "elements/misalignment.h"
#include "elements/phase_space.h"
#include "elements/spin.h"

namespace betatron::elements {

/// Turns the plane in which coordinates are taken about the y axis, by theta = angle_out - angle_in. Coordinates
/// are relative to a reference momentum at angle_in to the z axis before and at angle_out behind:
///   px1 + sin(out) = (px + sin(in)) cos(theta) + pz sin(theta),  pz1 = pz cos(theta) - (px + sin(in)) sin(theta)
template <class R>
struct face_rotation {
  R cosine, sine, sin_in, cos_in, sin_out, cos_out, inv_beta;

  static constexpr unsigned writes = column::x | column::px | column::y | column::t;
  static constexpr spin_effect spin = spin_effect::turned;
  static constexpr beam::loss_reason loss = beam::loss_reason::outside_domain;

  template <class T>
  BETATRON_INLINE mask_of<T> push(phase_space<T>& z, const energy<T>& e) const {
    using F = scalar_of<T>;
    const T excess = z.pt * (z.pt - inv_beta * F(2));  // P^2 - 1
    const T px = z.px + sin_in;
    const T pz2 = excess + F(1) - px * px - z.py * z.py;
    const T pz = sqrt(select(pz2 > T(F(0)), pz2, T(F(1))));
    // pz - cos(in) without cancellation
    const T rise = (excess - z.px * (z.px + sin_in * F(2)) - z.py * z.py) / (pz + cos_in);
    const T pz1 = pz * cosine - px * sine;
    const auto inside = (pz2 > T(F(0))) & (pz1 > T(F(0)));
    const T l = z.x * sine / select(inside, pz1, T(F(1)));
    z.y = z.y + l * z.py;
    z.t = z.t + l * (e.slip + inv_beta) * (excess + F(1)) * e.inv_p;
    z.px = z.px * cosine + rise * sine;
    z.x = z.x * cosine + l * (z.px + sin_out);
    return inside;
  }
  template <class T>
  BETATRON_INLINE void turn_spin(vector3<T>& s, const phase_space<T>&, const phase_space<T>&,
                                 const energy<T>&, const gyration<R>&) const {
    const T x = s.x;
    s.x = x * cosine + s.z * sine;
    s.z = s.z * cosine - x * sine;
  }
  face_rotation inverse() const {
    return {cosine, -sine, sin_out, cos_out, sin_in, cos_in, inv_beta};
  }
};

struct pole_face_rotation {
  double angle_in = 0;
  double angle_out = 0;

  static constexpr std::string_view kind = "PoleFaceRotation";
  static constexpr std::string_view doc =
      "Turns the plane of the coordinates about the vertical axis, from one in which the reference moves at "
      "angle_in to the normal to one in which it moves at angle_out. Exact; the reference orbit does not change.";
  static constexpr auto parameters = std::tuple{
      parameter{"angle_in", &pole_face_rotation::angle_in, "rad",
                "angle of the reference to the normal of the plane before",
                range{-1.5, 1.5, false}},
      parameter{"angle_out", &pole_face_rotation::angle_out, "rad",
                "angle of the reference to the normal of the plane behind",
                range{-1.5, 1.5, false}},
  };
};

template <class Emit>
void emit_maps(const pole_face_rotation& r, const slice& s, Emit&& emit) {
  const double theta = r.angle_out - r.angle_in;
  emit(face_rotation<double>{std::cos(theta), std::sin(theta), std::sin(r.angle_in),
                             std::cos(r.angle_in), std::sin(r.angle_out), std::cos(r.angle_out),
                             s.ref.inverse_beta()});
}

struct plane_rotation {
  double angle = 0;

  static constexpr std::string_view kind = "PlaneRotation";
  static constexpr bool turns_frame = true;  ///< of the reference particle
  static constexpr std::string_view doc =
      "Turns the transverse axes about the beam: x -> x cos(angle) + y sin(angle). What follows is rolled.";
  static constexpr auto parameters = std::tuple{
      parameter{"angle", &plane_rotation::angle, "rad", "angle of the new x axis to the old one"},
  };
};

template <class Emit>
void emit_maps(const plane_rotation& r, const slice&, Emit&& emit) {
  emit(frame_change<double>{0, 0, std::cos(r.angle), std::sin(r.angle)});
}

namespace detail {

/// Row-major product a b of 3x3 matrices.
inline std::array<double, 9> product(const std::array<double, 9>& a,
                                     const std::array<double, 9>& b) {
  std::array<double, 9> r{};
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t j = 0; j < 3; ++j) {
      for (std::size_t k = 0; k < 3; ++k) r[3 * i + j] += a[3 * i + k] * b[3 * k + j];
    }
  }
  return r;
}

inline std::array<double, 9> transposed(const std::array<double, 9>& a) {
  return {a[0], a[3], a[6], a[1], a[4], a[7], a[2], a[5], a[8]};
}

}  // namespace detail

/// `fraction` is 1 forward and -1 backward.
inline void advance(const plane_rotation& r, beam::reference& ref, double fraction) {
  const double c = std::cos(r.angle), s = std::sin(r.angle * fraction);
  ref.frame = detail::product({c, s, 0, -s, c, 0, 0, 0, 1}, ref.frame);
}

/// To the frame with origin at `o` and axes in the rows of `m`, both in the old frame.
template <class R>
struct frame_patch {
  R m[9], o[3], length, inv_beta;  // length: path of the reference

  static constexpr unsigned writes = column::x | column::px | column::y | column::py | column::t;
  static constexpr spin_effect spin = spin_effect::turned;
  static constexpr beam::loss_reason loss = beam::loss_reason::outside_domain;

  template <class T>
  BETATRON_INLINE mask_of<T> push(phase_space<T>& z, const energy<T>& e) const {
    using F = scalar_of<T>;
    const T p2 = z.pt * (z.pt - inv_beta * F(2)) + F(1);
    const T pz2 = p2 - z.px * z.px - z.py * z.py;
    const T pz = sqrt(select(pz2 > T(F(0)), pz2, T(F(1))));
    const T x = z.x - o[0], y = z.y - o[1];
    const T x1 = x * m[0] + y * m[1] - m[2] * o[2];
    const T y1 = x * m[3] + y * m[4] - m[5] * o[2];
    const T z1 = x * m[6] + y * m[7] - m[8] * o[2];
    const T px1 = z.px * m[0] + z.py * m[1] + pz * m[2];
    const T py1 = z.px * m[3] + z.py * m[4] + pz * m[5];
    const T pz1 = z.px * m[6] + z.py * m[7] + pz * m[8];
    const auto inside = (pz2 > T(F(0))) & (pz1 > T(F(0)));
    const T l = -z1 / select(inside, pz1, T(F(1)));
    z.x = x1 + l * px1;
    z.px = px1;
    z.y = y1 + l * py1;
    z.py = py1;
    z.t = z.t + e.slip * length + (e.slip + inv_beta) * (l * p2 * e.inv_p - length);
    return inside;
  }
  template <class T>
  BETATRON_INLINE void turn_spin(vector3<T>& s, const phase_space<T>&, const phase_space<T>&,
                                 const energy<T>&, const gyration<R>&) const {
    s = {s.x * m[0] + s.y * m[1] + s.z * m[2], s.x * m[3] + s.y * m[4] + s.z * m[5],
         s.x * m[6] + s.y * m[7] + s.z * m[8]};
  }
  frame_patch inverse() const {
    frame_patch r{};
    for (int i = 0; i < 3; ++i) {
      for (int k = 0; k < 3; ++k) r.m[3 * i + k] = m[3 * k + i];
      r.o[i] = -(m[3 * i] * o[0] + m[3 * i + 1] * o[1] + m[3 * i + 2] * o[2]);
    }
    r.length = -length;
    r.inv_beta = inv_beta;
    return r;
  }
};

struct patch {
  double offset_x = 0;
  double offset_y = 0;
  double offset_z = 0;
  double rotation_x = 0;
  double rotation_y = 0;
  double rotation_z = 0;

  static constexpr std::string_view kind = "Patch";
  static constexpr bool turns_frame = true;  ///< of the reference particle
  static constexpr std::string_view doc =
      "A new reference frame: shifted, then turned about the new y, x and z axes in this order. The reference "
      "goes on along the new z axis, having taken the path offset_z. Exact, through a field-free space.";
  static constexpr auto parameters = std::tuple{
      parameter{"offset_x", &patch::offset_x, "m", "shift of the origin along x"},
      parameter{"offset_y", &patch::offset_y, "m", "shift of the origin along y"},
      parameter{"offset_z", &patch::offset_z, "m", "shift of the origin along z"},
      parameter{"rotation_x", &patch::rotation_x, "rad", "turns z towards -y",
                range{-1.5, 1.5, false}},
      parameter{"rotation_y", &patch::rotation_y, "rad", "turns z towards x",
                range{-1.5, 1.5, false}},
      parameter{"rotation_z", &patch::rotation_z, "rad", "turns x towards y"},
  };
};

namespace detail {

/// The axes of the new frame, in rows.
inline std::array<double, 9> patch_axes(const patch& p) {
  const double cx = std::cos(p.rotation_x), sx = std::sin(p.rotation_x);
  const double cy = std::cos(p.rotation_y), sy = std::sin(p.rotation_y);
  const double cz = std::cos(p.rotation_z), sz = std::sin(p.rotation_z);
  const std::array<double, 9> about_y{cy, 0, -sy, 0, 1, 0, sy, 0, cy};
  const std::array<double, 9> about_x{1, 0, 0, 0, cx, sx, 0, -sx, cx};
  const std::array<double, 9> about_z{cz, sz, 0, -sz, cz, 0, 0, 0, 1};
  return product(about_z, product(about_x, about_y));
}

}  // namespace detail

template <class Emit>
void emit_maps(const patch& p, const slice& s, Emit&& emit) {
  frame_patch<double> map{};
  const std::array<double, 9> axes = detail::patch_axes(p);
  for (std::size_t i = 0; i < 9; ++i) map.m[i] = axes[i];
  map.o[0] = p.offset_x;
  map.o[1] = p.offset_y;
  map.o[2] = p.offset_z;
  map.length = p.offset_z;
  map.inv_beta = s.ref.inverse_beta();
  emit(map);
}

/// `fraction` is 1 forward and -1 backward.
inline void advance(const patch& p, beam::reference& ref, double fraction) {
  const std::array<double, 9> axes = detail::patch_axes(p);
  auto shift = [&](double sign) {
    const double o[3] = {p.offset_x, p.offset_y, p.offset_z};
    for (std::size_t i = 0; i < 3; ++i) {
      for (std::size_t k = 0; k < 3; ++k) ref.position[k] += sign * o[i] * ref.frame[3 * i + k];
    }
  };
  ref.s += fraction * p.offset_z;
  ref.t += fraction * p.offset_z * ref.inverse_beta();
  if (fraction > 0) {
    shift(1);
    ref.frame = detail::product(axes, ref.frame);
  } else {
    ref.frame = detail::product(detail::transposed(axes), ref.frame);
    shift(-1);
  }
}

}  // namespace betatron::elements
