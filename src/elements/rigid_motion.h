// rigid_motion.h: elements that are moved as rigid bodies, in all six degrees of freedom.
//
// A misaligned element stands where the motion M puts it: r -> o + m^T r in the coordinates of the frame at its
// pivot (the rows of m are the axes behind the motion). Tracking goes, through field-free space, from the plane of
// the reference orbit to that of the moved element, through the element, and back. In the coordinates of a frame
// further along the element, which stands at c and has the axes C (rows) as seen from the pivot, the same motion is
//
//   m' = C m C^T,   o' = C (o + m^T c - c).
//
// For a bend C turns with the orbit: its displacement along x at the entrance is one along x and z at the exit, and
// its roll about z at the entrance is one about z and x. Sources: E. Forest, Beam Dynamics (1998), ch. 10; MAD-X
// manual, EALIGN (the entrance is the pivot there).
#pragma once

#include <array>

#include "elements/misalignment.h"
#include "elements/rotation.h"

namespace betatron::elements {

struct rigid_motion {
  std::array<double, 9> axes{1, 0, 0, 0, 1, 0, 0, 0, 1};  // in rows
  std::array<double, 3> origin{};

  /// Shifts, then turns about the new y (yaw), x (pitch) and z (roll) axes, as a Patch does.
  static rigid_motion of(const patch& p) {
    return {detail::patch_axes(p), {p.offset_x, p.offset_y, p.offset_z}};
  }

  /// The same motion in the coordinates of the frame at `place` with axes `c`.
  rigid_motion seen_from(const std::array<double, 3>& place, const std::array<double, 9>& c) const {
    rigid_motion r;
    std::array<double, 3> shift = origin;
    if (turns()) {  // else the axes stay 1 to the last bit
      r.axes = detail::product(c, detail::product(axes, detail::transposed(c)));
      for (std::size_t i = 0; i < 3; ++i) {
        shift[i] += axes[i] * place[0] + axes[3 + i] * place[1] + axes[6 + i] * place[2] - place[i];
      }
    }
    for (std::size_t i = 0; i < 3; ++i) {
      r.origin[i] = c[3 * i] * shift[0] + c[3 * i + 1] * shift[1] + c[3 * i + 2] * shift[2];
    }
    return r;
  }

  bool turns() const { return axes != rigid_motion{}.axes; }

  /// It leaves the transverse plane where it is: a shift and a roll in it are all there is.
  bool is_transverse() const {
    return axes[2] == 0 && axes[5] == 0 && axes[6] == 0 && axes[7] == 0 && axes[8] == 1 &&
           origin[2] == 0;
  }

  /// Emits the step into the moved frame, or out of it; inv_beta is 1/beta of the reference there. The `general` map
  /// holds every motion.
  template <class Emit>
  void emit_step(bool inwards, double inv_beta, bool general, Emit&& emit) const {
    const auto step = [&](const auto& in) { inwards ? emit(in) : emit(in.inverse()); };
    if (is_transverse() && !general) {
      step(frame_change<double>{origin[0], origin[1], axes[0], axes[1]});
    } else {
      frame_patch<double> in{};
      for (std::size_t i = 0; i < 9; ++i) in.m[i] = axes[i];
      for (std::size_t i = 0; i < 3; ++i) in.o[i] = origin[i];
      in.inv_beta = inv_beta;
      step(in);
    }
  }
};

}  // namespace betatron::elements
