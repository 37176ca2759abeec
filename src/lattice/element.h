// lattice/element.h: an element of a lattice: a kind with its parameters, and what all kinds have in common.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "elements/kinds.h"
#include "elements/rigid_motion.h"

namespace betatron::lattice {

/// Where an element stands: a rigid motion away from its place on the reference orbit, in the frame of the orbit at
/// its pivot. It is shifted, then turned about its own y (yaw), x (pitch) and z axis (roll), in this order, by the
/// right-hand rule: yaw turns z towards x, pitch z towards -y, roll x towards y.
struct alignment {
  double dx = 0;     // m
  double dy = 0;     // m
  double dz = 0;     // m
  double pitch = 0;  // rad
  double yaw = 0;    // rad
  double roll = 0;   // rad
  bool about_center =
      false;  // the pivot: the middle of the orbit in the element, else its entrance

  bool is_perfect() const {
    return dx == 0 && dy == 0 && dz == 0 && pitch == 0 && yaw == 0 && roll == 0;
  }
};

/// The cross section of the vacuum pipe: half-widths, 0 for none.
struct pipe_opening {
  double x = 0;              // m
  double y = 0;              // m
  bool rectangular = false;  // else elliptical
};

struct element {
  elements::kind body;
  std::string name{};
  elements::model model = elements::model::paraxial;
  int slices = 1;  ///< pieces, at whose ends the beam can be recorded
  int order = 2;   ///< of split integration: 2, 4, 6
  int steps = 10;  ///< of split integration, per slice
  alignment align{};
  pipe_opening pipe{};
};

/// What a parameter can hold when it is addressed by name. Whole numbers (slices, ...) travel as double.
using value = std::variant<double, bool, std::string, std::vector<double>>;

/// The description of one parameter, for constructors, bindings, files and documentation.
struct parameter_info {
  std::string name, unit, doc;
  value default_value;
  double minimum, maximum;  ///< allowed range of numbers, inclusive unless open_below
  bool open_below;
  bool is_integer;
  bool required;
  std::vector<std::string> choices;  ///< allowed words, for strings
};

struct kind_info {
  std::string name, doc;
  std::vector<parameter_info> parameters;
};

/// All kinds, in the order of elements::kind.
const std::vector<kind_info>& kinds();

/// Description of a kind. Throws std::out_of_range listing the known kinds.
const kind_info& find_kind(std::string_view name);

/// name, model, slices, order, steps, dx, dy, dz, pitch, yaw, roll, pivot, aperture_*: parameters that every kind has.
const std::vector<parameter_info>& common_parameters();

/// An element of this kind with default parameters; `name` may be empty.
element make_element(std::string_view kind);

std::string_view kind_of(const element& e);

/// "Quadrupole 'q1'", for messages.
std::string describe(const element& e);

/// Parameter by name, own or common. Throws std::out_of_range for an unknown name (listing the known ones).
value get(const element& e, std::string_view parameter);

/// Sets a parameter by name. Throws std::out_of_range for an unknown name, std::invalid_argument for a value of
/// the wrong type, not finite, or outside the allowed range; the message names element, value and range.
void set(element& e, std::string_view parameter, const value& v);

/// Path length of the reference orbit [m].
double length(const element& e);

/// Curvature of the reference orbit [1/m], positive if it bends towards -x; 0 where it is straight.
double curvature(const element& e);

/// Slices an element is tracked in: thin ones are not cut.
int slice_count(const element& e);

/// Whether its slices cannot be passed in pieces: they are code of others.
bool has_whole_slices(const element& e);

/// The misalignment in the frame of the reference orbit at `place`, 0 at the entrance and 1 at the exit.
elements::rigid_motion motion_at(const element& e, double place);

/// The same as the alignment that a thin element there must have to move with this one.
alignment alignment_at(const element& e, double place);

/// Checks what involves several parameters (36 entries of a matrix, a total length that is not zero where it is
/// divided by). Throws std::invalid_argument naming the element.
void validate(const element& e);

}  // namespace betatron::lattice
