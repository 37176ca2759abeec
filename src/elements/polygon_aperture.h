// polygon_aperture.h: a thin opening of any shape.
//
// A place is inside if the boundary winds about it: the signed number of times that the boundary crosses the
// ray from the place towards +x is not 0. It holds for either sense of rotation and for boundaries that touch
// themselves. Source: K. Hormann and A. Agathos, Comput. Geom. 20 (2001) 131.
#pragma once

#include "elements/aperture.h"
#include "elements/element.h"
#include "elements/phase_space.h"
#include "elements/spin.h"

namespace betatron::elements {

inline constexpr int max_vertices = 64;  ///< of a polygon

template <class R>
struct polygon_filter {
  R count, inner2,
      absorb;  // number of edges; squared radius of what is inside untested; flag, 0 or 1
  opening_grid<R> grid;
  R x[max_vertices + 1], y[max_vertices + 1];  // closed: the last is the first

  static constexpr unsigned writes = 0;
  static constexpr spin_effect spin = spin_effect::none;
  static constexpr beam::loss_reason loss = beam::loss_reason::aperture;

  template <class T>
  BETATRON_INLINE mask_of<T> push(phase_space<T>& z, const energy<T>&) const {
    using F = scalar_of<T>;
    T px = z.x, py = z.y;
    grid.fold(px, py);
    const T zero = T(F(0)), one = T(F(1));
    mask_of<T> inside = px * px + py * py < T(inner2);
    if (numerics::any_of(!inside)) {
      T winding = zero;
      const int edges = static_cast<int>(count);
      mask_of<T> below = T(y[0]) <= py;
      for (int i = 0; i < edges; ++i) {
        const mask_of<T> next_below = T(y[i + 1]) <= py;
        // on which side of the edge: > 0 to its left
        const T side = (py - y[i]) * (x[i + 1] - x[i]) - (px - x[i]) * (y[i + 1] - y[i]);
        winding = winding + select(below & !next_below & (side > zero), one, zero) -
                  select(next_below & !below & (side < zero), one, zero);
        below = next_below;
      }
      inside = inside | !(winding == zero);
    }
    return absorb != R(0) ? !inside : inside;
  }
  polygon_filter inverse() const { return *this; }
};

struct polygon_aperture {
  std::vector<double> vertices{};
  double min_radius2 = 0;
  std::string action = "transmit";
  double repeat_x = 0;
  double repeat_y = 0;
  bool shift_odd_x = false;

  static constexpr std::string_view kind = "PolygonAperture";
  static constexpr std::string_view doc =
      "A thin polygonal opening; particles outside are lost (action transmit), or those inside (absorb). It "
      "closes itself, and may repeat as a grid.";
  static constexpr auto parameters = std::tuple{
      parameter{"vertices", &polygon_aperture::vertices, "m",
                "corners (x, y) in the order of the boundary, 3 to 64 of them", range::any,
                required},
      parameter{"min_radius2", &polygon_aperture::min_radius2, "m^2",
                "particles with x^2 + y^2 below this count as inside without a test of the polygon",
                range::not_negative},
      parameter{"action", &polygon_aperture::action, "transmit|absorb",
                "what the opening does with particles inside", std::string_view{}},
      parameter{"repeat_x", &polygon_aperture::repeat_x, "m", "horizontal period (0: none)",
                range::not_negative},
      parameter{"repeat_y", &polygon_aperture::repeat_y, "m", "vertical period (0: none)",
                range::not_negative},
      parameter{"shift_odd_x", &polygon_aperture::shift_odd_x, "",
                "shift odd rows by half a horizontal period"},
  };
};

/// What is wrong with the vertices; empty if nothing is.
inline std::string problem(const polygon_aperture& a) {
  const std::size_t n = a.vertices.size();
  if (n % 2 == 0 && n >= 6 && n <= 2 * static_cast<std::size_t>(max_vertices)) return {};
  return "vertices has " + std::to_string(n) + " entries; allowed: 6 to " +
         std::to_string(2 * max_vertices) + ", x and y of 3 to " + std::to_string(max_vertices) +
         " corners";
}

template <class Emit>
void emit_maps(const polygon_aperture& a, const slice&, Emit&& emit) {
  polygon_filter<double> f{};
  const std::size_t n = a.vertices.size() / 2;
  f.count = static_cast<double>(n);
  f.inner2 = a.min_radius2;
  f.absorb = a.action == "absorb" ? 1 : 0;
  f.grid = opening_grid<double>::make(a.repeat_x, a.repeat_y, a.shift_odd_x);
  for (std::size_t i = 0; i <= n; ++i) {
    f.x[i] = a.vertices[2 * (i % n)];
    f.y[i] = a.vertices[2 * (i % n) + 1];
  }
  emit(f);
}

}  // namespace betatron::elements
