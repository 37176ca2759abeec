// element.h: what all elements have in common: how a parameter is described, which models there are, and
// the context in which an element turns itself into maps.
//
// An element is data: a kind (a struct of parameters, one header each) plus the attributes every kind has.
// Its header defines
//   struct with kind, doc, parameters            -> checks, bindings, repr, dictionary forms, documentation
//   emit_maps(kind, slice, emit)                 -> the maps of one slice, in the order particles see them
//   advance(kind, reference, fraction)           -> the reference particle (default: straight ahead); a field
//                                                   that varies along the element takes a stretch instead
#pragma once

#include <cmath>
#include <limits>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "beam/reference.h"
#include "elements/radiation.h"

namespace betatron::elements {

/// linear: the derivative of the paraxial map at the reference orbit. paraxial: exact in energy, quadratic in
/// transverse momenta. exact: full square root; closed form where it exists, else split integration.
enum class model { linear, paraxial, exact };

/// Allowed values of a number. Bounds are inclusive unless `open_below`.
struct range {
  double minimum = -std::numeric_limits<double>::infinity();
  double maximum = std::numeric_limits<double>::infinity();
  bool open_below = false;

  static const range any, not_negative, positive;
};
inline constexpr range range::any{};
inline constexpr range range::not_negative{0, std::numeric_limits<double>::infinity(), false};
inline constexpr range range::positive{0, std::numeric_limits<double>::infinity(), true};

struct required_t {};
/// Marks a parameter without a default.
inline constexpr required_t required{};

/// One parameter of a kind: everything that constructors, bindings, files and documentation need.
template <class Kind, class Value>
struct parameter {
  std::string_view name;
  Value Kind::*member;
  std::string_view unit;
  std::string_view doc;
  range allowed{};
  bool is_required = false;
  std::string_view choices{};  ///< for strings: the allowed words, separated by '|'

  constexpr parameter(std::string_view name_, Value Kind::*member_, std::string_view unit_,
                      std::string_view doc_, range allowed_ = range::any)
      : name(name_), member(member_), unit(unit_), doc(doc_), allowed(allowed_) {}
  constexpr parameter(std::string_view name_, Value Kind::*member_, std::string_view unit_,
                      std::string_view doc_, range allowed_, required_t)
      : parameter(name_, member_, unit_, doc_, allowed_) {
    is_required = true;
  }
  constexpr parameter(std::string_view name_, Value Kind::*member_, std::string_view choices_,
                      std::string_view doc_, std::string_view)
      : parameter(name_, member_, "", doc_) {
    choices = choices_;
  }
};

/// A piece of an element that the reference particle passes, backwards if to < from: fractions of the length.
struct stretch {
  double from, to;
  int order, steps;  ///< of integration, for the piece
};

/// The piece of an element that is turned into maps: slice `index` of `count` equal ones.
struct slice {
  const beam::reference& ref;  ///< at the entrance of the slice
  elements::model model;
  int order;  ///< of split integration: 2, 4 or 6
  int steps;  ///< of split integration, per slice
  int index;
  int count;
  double fraction;  ///< 1/count

  /// Something is integrated along the orbit (spin, radiation): closed solutions are cut into `steps` too.
  bool in_steps = false;
  const radiation_model* radiation =
      nullptr;  ///< what is radiated in fields with a length, if anything

  /// Emit the maps of the general case where special values (a strength of 0) would do with others or none: what
  /// is emitted is then a smooth function of the parameters, as derivatives with respect to them need it.
  bool keep_structure = false;
  bool keep_frames =
      false;  ///< the same for the steps into the frame of a displaced element and out of it

  stretch piece() const {  // from 0 and to 1, exactly, at the ends
    return {static_cast<double>(index) / count, static_cast<double>(index + 1) / count, order,
            steps};
  }
  bool is_first() const { return index == 0; }
  bool is_last() const { return index == count - 1; }
};

/// The lengths of the stages that make a method of order 2, which looks the same from both ends, one of order 4
/// or 6: calls stage(l) in the order of the beam; the lengths add up to `length`. Some are negative.
/// Source: H. Yoshida, Phys. Lett. A 150 (1990) 262, solution A for order 6.
template <class Stage>
void compose(double length, int order, int steps, Stage&& stage) {
  constexpr double r4 = 1.2599210498948731648;  // 2^(1/3)
  constexpr double order2[] = {1.0};
  constexpr double order4[] = {1 / (2 - r4), -r4 / (2 - r4), 1 / (2 - r4)};
  constexpr double w1 = -1.17767998417887100695, w2 = 0.235573213359358133684,
                   w3 = 0.784513610477557263820, w0 = 1 - 2 * (w1 + w2 + w3);
  constexpr double order6[] = {w3, w2, w1, w0, w1, w2, w3};
  const double* weights = order == 2 ? order2 : order == 4 ? order4 : order6;
  const int stages = order == 2 ? 1 : order == 4 ? 3 : 7;
  const double step = length / steps;
  for (int i = 0; i < steps; ++i) {
    for (int j = 0; j < stages; ++j) stage(step * weights[j]);
  }
}

/// Symplectic integration of H = A + B over `length`: emits a(l) and b(l) such that their sum of lengths is
/// `length` each, leap-frog by leap-frog, with the outer a's of neighbours merged.
template <class A, class B>
void split(double length, int order, int steps, A&& a, B&& b) {
  double pending = 0;  // length of a not emitted yet
  compose(length, order, steps, [&](double l) {
    a(pending + l / 2);
    b(l);
    pending = l / 2;
  });
  a(pending);
}

/// What radiation depends on beside the turn of the momentum; see radiation.h.
struct radiating_field {
  double curvature = 0;  ///< of the frame [1/m]
  double half_ks = 0;    ///< of a solenoid [1/m]
  double wiggle = 0;     ///< mean square of the curvature of a wiggle [1/m^2] ...
  double cube = 1;       ///< ... and its mean cube over the power 3/2 of that
};

/// Emits one step over `length` in such a field by calling body(); it radiates if the slice says so.
template <class Emit, class Body>
void radiate(double length, const radiating_field& field, const slice& s, Emit&& emit,
             Body&& body) {
  const bool radiates = s.radiation != nullptr && length != 0;
  if (radiates) emit(radiation_mark<double>{field.half_ks});
  body();
  if (radiates) {
    emit(make_radiation_loss(*s.radiation, s.ref, length, field.curvature, field.half_ks,
                             field.wiggle, field.cube));
  }
}

/// A closed solution over `length`, which needs no steps of its own: body(l) once, or for each step.
template <class Emit, class Body>
void closed(double length, const radiating_field& field, const slice& s, Emit&& emit, Body&& body) {
  const int pieces = s.in_steps ? s.steps : 1;
  for (int i = 0; i < pieces; ++i) {
    radiate(length / pieces, field, s, emit, [&] { body(length / pieces); });
  }
}

/// split() with the order and steps of the slice, radiating step by step.
template <class Emit, class A, class B>
void split(double length, const radiating_field& field, const slice& s, Emit&& emit, A&& a, B&& b) {
  if (s.radiation == nullptr) return split(length, s.order, s.steps, a, b);
  for (int i = 0; i < s.steps; ++i) {
    const double step = length / s.steps;
    radiate(step, field, s, emit, [&] { split(step, s.order, 1, a, b); });
  }
}

/// The reference particle goes straight ahead by `length`.
inline void advance_straight(beam::reference& ref, double length) {
  ref.s += length;
  ref.t += length * ref.inverse_beta();
  for (std::size_t i = 0; i < 3; ++i) ref.position[i] += length * ref.frame[6 + i];
}

template <class Kind>
void advance(const Kind& kind, beam::reference& ref, double fraction) {
  if constexpr (requires { kind.length; }) advance_straight(ref, kind.length * fraction);
}

/// Where it matters which piece of the element is passed, a kind takes the stretch instead of its fraction.
template <class Kind>
void advance(const Kind& kind, beam::reference& ref, const stretch& piece) {
  advance(kind, ref, piece.to - piece.from);
}

}  // namespace betatron::elements
