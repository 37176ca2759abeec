#include "lattice/program.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <optional>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <variant>

#include "elements/misalignment.h"
#include "elements/spin.h"
#include "lattice/push_inside.h"
#include "numerics/dual.h"

namespace betatron::lattice {

namespace {

using elements::all_maps;
using elements::energy_of;
using elements::phase_space;
using elements::vector3;

using tangent = numerics::dual<double, 6>;

template <class Map>
concept changes_energy = requires { Map::changes_energy; };

template <class Map>
concept is_filter = Map::writes == 0;

/// Acts on spins only, and is left out where there are none.
template <class Map>
concept spin_only = requires { Map::spin_only; };

/// A mark or a loss of radiation, which are operations of their own.
template <class Map>
concept is_radiation = std::is_same_v<Map, elements::radiation_mark<double>> ||
                       std::is_same_v<Map, elements::radiation_loss<double>>;

/// Code of others, which is an operation of its own.
template <class Map>
concept is_call = std::is_same_v<Map, elements::code_call>;

constexpr const char* spin_unknown =
    "its effect on the spin is not known; track without spins, or replace it by elements through which spins "
    "can be tracked";

/// Throws std::domain_error for a map whose fields are not known well enough to turn a spin.
template <class Map>
void check_spin_effect() {
  if constexpr (elements::spin_effect_of<Map>() == elements::spin_effect::unknown) {
    throw std::domain_error(spin_unknown);
  }
}

/// 1/beta0 and 1/(beta0 gamma0)^2 behind a map, given those in front of it.
template <class Map>
std::array<double, 2> energy_behind(const Map& map, std::array<double, 2> before) {
  if constexpr (requires { map.bg_out; }) {
    const double inv_bg2 = 1 / (map.bg_out * map.bg_out);
    return {std::sqrt(1 + inv_bg2), inv_bg2};
  } else {
    return before;
  }
}

std::array<double, 2> energy_constants(const beam::reference& ref) {
  return {ref.inverse_beta(), ref.inverse_beta_gamma_squared()};
}

/// Steps that radiate: their numbers, and what the reference particle loses in them.
class radiated_steps {
 public:
  /// Steps are numbered by their place in the element, whatever pieces it is passed in: from a multiple
  /// of the fraction of its length in front of the piece, which single precision can hold.
  void enter_piece(double from) { number_ = static_cast<int>(from * (1 << 23)); }

  /// The next step, numbered.
  elements::radiation_loss<double> numbered(elements::radiation_loss<double> step) {
    step.number = number_++;
    reference_loss_ += elements::reference_loss(step, step.gamma - reference_loss_);
    return step;
  }

  /// What the reference particle has radiated of gamma since this was asked the last time.
  double reference_loss() { return std::exchange(reference_loss_, 0); }

 private:
  int number_ = 0;
  double reference_loss_ = 0;
};

/// Appends maps to a program.
class writer {
 public:
  radiated_steps radiated{};

  writer(program& p, std::array<double, 2> energy) : program_(p), energy_(energy) {
    program_.entrance_energy = energy;
  }

  void place(std::size_t element, double s, const std::string& name) {
    element_ = static_cast<std::int32_t>(element);
    s_ = s;
    name_ = &name;
  }

  template <template <class> class Map>
  void operator()(const Map<double>& map) {
    constexpr int code = all_maps::code<Map>();
    static_assert(code >= 0, "a map must be listed in elements/kinds.h");
    if constexpr (spin_only<Map<double>>) {
      if (!program_.spin) return;
    }
    if (program_.spin) check_spin_effect<Map<double>>();
    put(code, &map, sizeof(Map<double>) / sizeof(double));
    if constexpr (changes_energy<Map<double>>) refresh(energy_behind(map, energy_));
  }

  void operator()(const elements::radiation_mark<double>& mark) {
    put(operation::mark, &mark, sizeof mark / sizeof(double));
  }

  void operator()(const elements::radiation_loss<double>& loss) {
    const auto step = radiated.numbered(loss);
    put(operation::radiate, &step, sizeof step / sizeof(double));
  }

  /// A step that has its number, on the way back: in front of it particles have another energy.
  void undo(const elements::radiation_loss<double>& step) {
    put(operation::radiate, &step, sizeof step / sizeof(double));
    refresh(energy_);
  }

  void operator()(const elements::code_call& call) {
    if (program_.spin && call.tiles) throw std::domain_error(spin_unknown);
    const auto number = static_cast<std::uint32_t>(program_.calls.size());
    program_.calls.push_back(call);
    program_.calls.back().name = *name_;
    program_.operations.push_back({operation::call, number, element_, s_});
    refresh(energy_constants(call.inverse ? call.entrance : call.exit));
  }

  void refresh(std::array<double, 2> energy) {
    energy_ = energy;
    const auto at = static_cast<std::uint32_t>(program_.coefficients.size());
    program_.coefficients.insert(program_.coefficients.end(), energy.begin(), energy.end());
    program_.operations.push_back({operation::refresh, at, element_, s_});
  }

  void observe(std::size_t element, int slice, const beam::reference& ref) {
    const auto number = static_cast<std::uint32_t>(program_.observations.size());
    program_.observations.push_back({static_cast<std::int32_t>(element), slice, ref});
    program_.operations.push_back(
        {operation::observe, number, static_cast<std::int32_t>(element), ref.s});
  }

  void record(std::size_t element, int slice, const beam::reference& ref) {
    const auto number = static_cast<std::uint32_t>(program_.records.size());
    program_.records.push_back({static_cast<std::int32_t>(element), slice, ref});
    program_.operations.push_back(
        {operation::record, number, static_cast<std::int32_t>(element), ref.s});
  }

 private:
  void put(int code, const void* coefficients, std::size_t count) {
    const std::size_t at = program_.coefficients.size();
    program_.coefficients.resize(at + count);
    std::memcpy(program_.coefficients.data() + at, coefficients, count * sizeof(double));
    program_.operations.push_back({code, static_cast<std::uint32_t>(at), element_, s_});
  }

  program& program_;
  std::array<double, 2> energy_;
  std::int32_t element_ = 0;
  double s_ = 0;
  const std::string* name_ = nullptr;
};

/// Pushes the reference orbit and its six tangents through maps; gives the affine map around it. With an anomaly it
/// also takes along three spins, which at first are along the axes.
class lineariser {
 public:
  lineariser(std::array<double, 2> energy, std::optional<double> anomaly,
             const std::array<double, 6>& start = {})
      : energy_(energy), anomaly_(anomaly) {
    reset(start);
  }

  template <class Map>
  void operator()(const Map& map) {
    const auto e = energy_of(z_.pt, energy_[0], energy_[1]);
    const phase_space<tangent> before = z_;
    push_inside(map, z_, e);
    if (anomaly_) {
      check_spin_effect<Map>();
      if constexpr (elements::spin_effect_of<Map>() == elements::spin_effect::turned) {
        const double bg = 1 / std::sqrt(energy_[1]);
        const elements::gyration<double> g{*anomaly_, energy_[0] * bg, bg};
        for (vector3<tangent>& s : spins_) map.turn_spin(s, before, z_, e, g);
        turned_ = true;
      }
    }
    energy_ = energy_behind(map, energy_);
    if constexpr (!spin_only<Map>) moved_ = true;
  }

  void operator()(const elements::code_call& call) {
    if (anomaly_) throw std::domain_error(spin_unknown);
    tangent* z[] = {&z_.x, &z_.px, &z_.y, &z_.py, &z_.t, &z_.pt};
    std::array<double, 6> start;
    for (std::size_t i = 0; i < 6; ++i) start[i] = z[i]->v;
    const orbit_map through = derivative(call, start);
    std::array<tangent, 6> behind;
    for (std::size_t i = 0; i < 6; ++i) {
      behind[i] = tangent(through.orbit[i]);
      for (std::size_t k = 0; k < 6; ++k) {
        for (std::size_t c = 0; c < 6; ++c) {
          behind[i].d[c] += through.matrix[6 * i + k] * z[k]->d[c];
        }
      }
    }
    for (std::size_t i = 0; i < 6; ++i) *z[i] = behind[i];
    energy_ = energy_constants(call.exit);
    moved_ = true;
  }

  bool turned() const { return turned_; }

  /// Row-major.
  std::array<double, 9> rotation() const {
    std::array<double, 9> r;
    for (std::size_t k = 0; k < 3; ++k) {
      r[k] = spins_[k].x.v;
      r[3 + k] = spins_[k].y.v;
      r[6 + k] = spins_[k].z.v;
    }
    return r;
  }

  /// A in R(z) = R(0) (1 + (A z) x + ...), row-major: R(0)^T dR/dz_i is the matrix of a cross product.
  std::array<double, 18> slopes() const {
    const auto r = rotation();
    std::array<double, 18> a;
    for (std::size_t i = 0; i < 6; ++i) {
      auto entry = [&](std::size_t row, std::size_t column) {
        const vector3<tangent>& s = spins_[column];
        return r[row] * s.x.d[i] + r[3 + row] * s.y.d[i] + r[6 + row] * s.z.d[i];
      };
      a[i] = (entry(2, 1) - entry(1, 2)) / 2;
      a[6 + i] = (entry(0, 2) - entry(2, 0)) / 2;
      a[12 + i] = (entry(1, 0) - entry(0, 1)) / 2;
    }
    return a;
  }

  bool moved() const { return moved_; }
  std::array<double, 2> energy() const { return energy_; }

  orbit_map result() const {
    orbit_map r;
    const tangent* z[] = {&z_.x, &z_.px, &z_.y, &z_.py, &z_.t, &z_.pt};
    for (std::size_t i = 0; i < 6; ++i) {
      r.orbit[i] = z[i]->v;
      for (std::size_t k = 0; k < 6; ++k) r.matrix[6 * i + k] = z[i]->d[k];
    }
    return r;
  }

  void reset(const std::array<double, 6>& start = {}) {
    tangent* z[] = {&z_.x, &z_.px, &z_.y, &z_.py, &z_.t, &z_.pt};
    for (std::size_t i = 0; i < 6; ++i) *z[i] = tangent::variable(start[i], static_cast<int>(i));
    const tangent zero(0.0), one(1.0);
    spins_ = {{{one, zero, zero}, {zero, one, zero}, {zero, zero, one}}};
    moved_ = turned_ = false;
  }

 private:
  phase_space<tangent> z_;
  std::array<vector3<tangent>, 3> spins_;
  std::array<double, 2> energy_;
  std::optional<double> anomaly_;
  bool moved_ = false, turned_ = false;
};

/// The vector of a rotation, its axis times its angle in [0, pi], from its matrix (row-major).
std::array<double, 3> rotation_vector(const std::array<double, 9>& r) {
  const double v[3] = {(r[7] - r[5]) / 2, (r[2] - r[6]) / 2, (r[3] - r[1]) / 2};  // axis sin(angle)
  const double sine = std::hypot(v[0], v[1], v[2]), cosine = (r[0] + r[4] + r[8] - 1) / 2;
  const double angle = std::atan2(sine, cosine);
  if (sine > 1e-3 || cosine > 0) {
    const double scale = sine > 0 ? angle / sine : 1;
    return {v[0] * scale, v[1] * scale, v[2] * scale};
  }
  // Near half a turn the axis is a column of R + R^T + (1 - trace) 1 = 2 (1 - cos) axis axis^T.
  std::array<double, 3> axis{};
  std::size_t k = 0;
  for (std::size_t i = 1; i < 3; ++i) {
    if (r[4 * i] > r[4 * k]) k = i;
  }
  for (std::size_t i = 0; i < 3; ++i) axis[i] = r[3 * i + k] + r[3 * k + i];
  axis[k] += 1 - (r[0] + r[4] + r[8]);
  const double size = std::hypot(axis[0], axis[1], axis[2]);
  const double side = axis[0] * v[0] + axis[1] * v[1] + axis[2] * v[2] < 0 ? -1 : 1;
  for (double& a : axis) a *= side * angle / size;
  return axis;
}

elements::aperture_filter<double> pipe_filter(const pipe_opening& p) {
  auto inverse_or_zero = [](double v) { return v != 0 ? 1 / v : 0; };
  return {inverse_or_zero(p.x), inverse_or_zero(p.y), {}, p.rectangular ? 0.0 : 1.0, 0.0};
}

/// Maps of one slice, forward, in the frame of the lattice.
template <class Emit>
void emit_slice(const element& e, const elements::slice& s, Emit&& emit) {
  const elements::stretch piece = s.piece();
  const bool perfect = e.align.is_perfect() && !s.keep_frames;
  if (!perfect) motion_at(e, piece.from).emit_step(true, s.ref.inverse_beta(), s.keep_frames, emit);
  std::visit([&](const auto& body) { emit_maps(body, s, emit); }, e.body);
  if (e.pipe.x != 0 || e.pipe.y != 0) emit(pipe_filter(e.pipe));
  if (perfect) return;
  beam::reference behind = s.ref;
  advance(e, behind, piece.from, piece.to);
  motion_at(e, piece.to).emit_step(false, behind.inverse_beta(), s.keep_frames, emit);
}

/// The same in the model of the element: the linear model is the derivative of the paraxial maps. With an anomaly it
/// has that of the spin too.
template <class Emit>
void emit_model(const element& e, const elements::slice& s, std::optional<double> anomaly,
                Emit&& emit) {
  if (s.model != elements::model::linear) return emit_slice(e, s, emit);
  elements::slice paraxial = s;
  paraxial.model = elements::model::paraxial;
  lineariser linear(energy_constants(s.ref), anomaly);
  double bg_in = s.ref.beta_gamma();
  std::array<double, 6> start{};  // where the orbit stands at a filter inside the element
  auto flush = [&] {
    if (linear.turned()) {
      elements::spin_rotation<double> turn{};
      std::ranges::copy(linear.slopes(), turn.slope);
      std::ranges::copy(rotation_vector(linear.rotation()), turn.behind);
      for (std::size_t i = 0; i < 3; ++i) {
        for (std::size_t k = 0; k < 6; ++k) turn.offset[i] -= turn.slope[6 * i + k] * start[k];
      }
      emit(turn);
    }
    if (!linear.moved()) return linear.reset(start);
    orbit_map r = linear.result();
    const std::array<double, 6> end = r.orbit;
    for (std::size_t i = 0; i < 6; ++i) {
      for (std::size_t k = 0; k < 6; ++k) r.orbit[i] -= r.matrix[6 * i + k] * start[k];
    }
    const double bg_out = 1 / std::sqrt(linear.energy()[1]);
    // without acceleration the two differ by rounding only
    const bool same = std::fabs(bg_out - bg_in) <= 4e-16 * bg_in;
    elements::emit_matrix(r.matrix, r.orbit, bg_in, same ? bg_in : bg_out, emit,
                          s.keep_structure || s.keep_frames);
    bg_in = bg_out;
    start = end;
    linear.reset(start);
  };
  emit_slice(e, paraxial, [&]<class Map>(const Map& map) {
    if constexpr (is_radiation<Map>) {
      flush();
      emit(map);
    } else if constexpr (is_filter<Map> && !spin_only<Map>) {
      flush();
      emit(map);
    } else {
      linear(map);
    }
  });
  flush();
}

/// Throws std::domain_error if nothing undoes the map.
template <class Map>
void write_inverse(const Map& map, bool keep_structure, writer& write) {
  if constexpr (requires { Map::has_no_inverse; }) {
    throw std::domain_error(std::string(Map::has_no_inverse));
  } else if constexpr (requires { map.inverse(); }) {
    write(map.inverse());
  } else {
    emit_inverse(map, write, keep_structure);
  }
}

void write_inverse(const elements::code_call& call, bool, writer& write) {
  if (call.beam == nullptr) throw std::domain_error("tile code has no inverse");
  if (!call.beam->inverse) throw std::domain_error("its code has no inverse");
  elements::code_call back = call;
  back.inverse = true;
  write(back);
}

/// Writes what undoes something that is emitted for a slice; throws std::domain_error if nothing does.
using undoing_step = std::function<void(writer&)>;

/// What undoes the maps of one slice, in the order of the maps: to be written from the last to the first.
std::vector<undoing_step> steps_to_undo(const element& e, const elements::slice& s,
                                        std::optional<double> anomaly, bool keep_structure,
                                        radiated_steps& radiated) {
  std::vector<undoing_step> steps;
  emit_model(e, s, anomaly, [&]<class Map>(const Map& map) {
    if constexpr (std::is_same_v<Map, elements::radiation_mark<double>>) {
      steps.emplace_back([map](writer& write) { write(map); });
    } else if constexpr (is_radiation<Map>) {
      steps.emplace_back([step = radiated.numbered(map)](writer& write) { write.undo(step); });
    } else {
      steps.emplace_back(
          [map, keep_structure](writer& write) { write_inverse(map, keep_structure, write); });
    }
  });
  return steps;
}

void write_backwards(const std::vector<undoing_step>& steps, writer& write) {
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) (*step)(write);
}

/// Integration steps in one of `count` equal pieces of an element.
int steps_of(const element& e, int count) {
  const int slices = slice_count(e);
  return std::max(1, static_cast<int>(std::lround(static_cast<double>(e.steps) * slices / count)));
}

/// Piece `index` of `count` equal ones of an element.
elements::slice piece_of(const element& e, const beam::reference& ref, int index, int count,
                         bool follow_fields, const elements::radiation_model* radiation = nullptr) {
  return {ref,   e.model,     e.order,       steps_of(e, count), index,
          count, 1.0 / count, follow_fields, radiation};
}

/// The reference orbit and its tangents through one piece; ref is moved along.
void push_piece(lineariser& linear, const element& e, int index, int count, beam::reference& ref,
                std::optional<double> anomaly = std::nullopt) {
  const elements::slice s = piece_of(e, ref, index, count, anomaly.has_value());
  const elements::stretch piece = s.piece();
  beam::reference behind = ref;
  advance(e, behind, piece.from,
          piece.to);  // first, because it throws where the element cannot be passed
  try {
    emit_model(e, s, anomaly, [&]<class Map>(const Map& map) {
      if constexpr (!is_radiation<Map>) {
        if constexpr (!is_filter<Map> || spin_only<Map>) linear(map);
      }
    });
  } catch (const std::domain_error& impossible) {
    throw std::invalid_argument(describe(e) + ": " + impossible.what());
  }
  ref = behind;
}

/// Throws std::invalid_argument if it is code that cannot be undone. In front of its reference function, which may have
/// no inverse either.
void check_inverse(const element& e) {
  const auto* code = std::get_if<elements::programmable>(&e.body);
  if (code == nullptr || (code->tiles == nullptr && (code->beam == nullptr || code->beam->inverse)))
    return;
  throw std::invalid_argument(describe(e) +
                              ": its code has no inverse, which tracking backward needs");
}

/// Throws std::invalid_argument unless radiation can be followed.
void check_radiation(const compile_options& options) {
  if (!options.radiation) return;
  lattice::check_radiation(*options.radiation);
  if (options.way == direction::backward) {
    throw std::invalid_argument(
        "radiation cannot be undone: backward tracking needs radiation to be off");
  }
}

/// Throws std::invalid_argument if the species has no anomaly.
void check_spin(const beam::species& particle) {
  if (particle.anomaly != 0) return;
  throw std::invalid_argument(
      "species '" + particle.name +
      "' has no gyromagnetic anomaly (0), which spin tracking needs; give it one, or "
      "track without spins");
}

/// Throws std::invalid_argument unless the boundary has what it needs.
void check_boundary(const compile_options& options) {
  lattice::check_boundary(options.boundary, options.bucket_length);
  if (options.boundary != elements::longitudinal_boundary::open &&
      options.way == direction::backward) {
    throw std::invalid_argument(
        "a longitudinal boundary cannot be undone: backward tracking needs the boundary open");
  }
}

}  // namespace

void check_radiation(const elements::radiation_model& model) {
  if (model.order >= 1 && model.order <= 3) return;
  throw std::invalid_argument("radiation: order = " + std::to_string(model.order) +
                              " is not allowed; allowed: 1, 2, 3");
}

void check_boundary(elements::longitudinal_boundary boundary, double bucket_length) {
  if (boundary == elements::longitudinal_boundary::open) return;
  if (bucket_length > 0 && std::isfinite(bucket_length)) return;
  throw std::invalid_argument("bucket_length = " + std::to_string(bucket_length) +
                              " m is not allowed with a longitudinal boundary; allowed: > 0");
}

std::vector<piece> pieces(const line& l, const position& first, const position& last,
                          direction way) {
  const bool forward = way == direction::forward;
  const std::size_t end = last.part > 0 ? last.element + 1 : last.element;
  const std::size_t elements = end > first.element ? end - first.element : 0;
  std::vector<piece> result;
  result.reserve(elements);
  for (std::size_t n = 0; n < elements; ++n) {
    const std::size_t i = forward ? first.element + n : end - 1 - n;
    const int slices = slice_count(*l.elements[i]);
    const bool starts_inside = i == first.element && first.part > 0;
    const bool ends_inside = i == last.element && last.part > 0;
    const int parts = starts_inside ? first.parts : ends_inside ? last.parts : slices;
    const int from = starts_inside ? first.part : 0, to = ends_inside ? last.part : parts;
    const int per_slice = parts / slices;
    const int first_slice = from / per_slice, end_slice = (to + per_slice - 1) / per_slice;
    for (int m = 0; m < end_slice - first_slice; ++m) {
      const int slice = forward ? first_slice + m : end_slice - 1 - m;
      const int k = forward ? slice : slices - 1 - slice;
      const int low = std::max(from, slice * per_slice);
      const int high = std::min(to, (slice + 1) * per_slice);
      if (low >= high) continue;
      const int width = high - low;
      const bool ends = forward ? high == (slice + 1) * per_slice : low == slice * per_slice;
      if (low % width == 0 && parts % width == 0) {
        result.push_back({i, low / width, parts / width, k, ends});
        continue;
      }
      for (int j = 0; j < width; ++j) {
        result.push_back({i, forward ? low + j : high - 1 - j, parts, k, ends && j == width - 1});
      }
    }
  }
  return result;
}

namespace {

/// Takes `loss` of gamma from the reference particle, and gives what makes coordinates relative to what is left.
elements::reference_change<double> lose(double loss, beam::reference& ref, const element& e) {
  const double before = ref.beta_gamma(), energy = ref.kinetic;
  ref.kinetic -= loss;
  if (!(ref.kinetic > 0)) {
    throw std::invalid_argument(describe(e) + ": the reference particle radiates all its energy");
  }
  // the difference: what the reference particle could lose in its precision
  return {energy - ref.kinetic, before, ref.beta_gamma()};
}

}  // namespace

program compile(const line& l, std::size_t first, std::size_t last, beam::reference& ref,
                const compile_options& options) {
  return compile(l, position{first}, position{last}, ref, options);
}

program compile(const line& l, const position& first, const position& last, beam::reference& ref,
                const compile_options& options) {
  check_boundary(options);
  check_radiation(options);
  program p;
  const elements::radiation_model* radiation = nullptr;
  if (options.radiation) {
    radiation = &*options.radiation;
    p.radiation = true;
    p.noise_seed = radiation->seed;
  }
  std::optional<double> anomaly;
  if (options.spin) {
    check_spin(ref.particle);
    p.spin = true;
    anomaly = p.anomaly = ref.particle.anomaly;
  }
  const std::vector<piece> passed = pieces(l, first, last, options.way);
  p.operations.reserve(2 * passed.size());
  p.coefficients.reserve(8 * passed.size());
  writer write(p, energy_constants(ref));
  const bool forward = options.way == direction::forward;

  const element* checked = nullptr;
  for (const piece& now : passed) {
    const std::size_t i = now.element;
    const element& e = *l.elements[i];
    if (&e != checked) validate(e);
    if (&e != checked && !forward) check_inverse(e);
    checked = &e;
    beam::reference behind = ref;
    const elements::slice s = piece_of(e, forward ? ref : behind, now.index, now.count,
                                       options.spin || radiation != nullptr, radiation);
    const elements::stretch part = s.piece();
    advance(e, behind, forward ? part.from : part.to, forward ? part.to : part.from);
    write.place(i, behind.s, e.name);
    write.radiated.enter_piece(part.from);
    try {
      if (forward) {
        emit_model(e, s, anomaly, write);
        const double loss = write.radiated.reference_loss();
        if (radiation != nullptr && radiation->reference && loss != 0) {
          write(lose(loss, behind, e));
        }
      } else {
        write_backwards(steps_to_undo(e, s, anomaly, false, write.radiated), write);
      }
    } catch (const std::domain_error& impossible) {
      throw std::invalid_argument(describe(e) + ": " + impossible.what());
    }
    ref = behind;
    if (!now.ends_slice) continue;
    emit_boundary(options.boundary, options.bucket_length, write);
    const bool last_slice = now.slice == slice_count(e) - 1;
    const auto is_set = [i](std::span<const std::uint8_t> flags) {
      return !flags.empty() && flags[i] != 0;
    };
    if (is_set(options.recorded) && (options.record_slices || last_slice)) {
      write.record(i, now.slice, ref);
    }
    if (is_set(options.observed) && last_slice) write.observe(i, now.slice, ref);
  }
  return p;
}

program compile_slice(const element& e, const slice_request& which, beam::reference& ref) {
  program p;
  elements::slice s =
      piece_of(e, ref, which.index, which.count, which.radiation != nullptr, which.radiation);
  s.keep_structure = which.keep_structure;
  s.keep_frames = which.keep_frames;
  const elements::stretch piece = s.piece();
  beam::reference behind = ref;
  advance(e, behind, piece.from, piece.to);
  radiated_steps radiated;
  radiated.enter_piece(piece.from);
  const auto radiate = [&]() -> std::optional<elements::reference_change<double>> {
    const double loss = radiated.reference_loss();
    if (which.radiation == nullptr || !which.radiation->reference) return {};
    if (loss == 0 && !which.keep_structure) return {};
    return lose(loss, behind, e);
  };
  if (which.inverse) {
    try {
      const auto steps =
          steps_to_undo(e, s, std::nullopt, s.keep_structure || s.keep_frames, radiated);
      const auto change = radiate();
      writer write(p, energy_constants(behind));
      write.place(0, behind.s, e.name);
      if (change) write(change->inverse());
      write_backwards(steps, write);
    } catch (const std::domain_error& singular) {
      throw std::invalid_argument(describe(e) + ": " + singular.what());
    }
  } else {
    writer write(p, energy_constants(ref));
    write.place(0, behind.s, e.name);
    write.radiated = radiated;
    emit_model(e, s, std::nullopt, write);
    radiated = write.radiated;
    if (const auto change = radiate()) write(*change);
  }
  ref = behind;
  return p;
}

program compile_boundary(elements::longitudinal_boundary boundary, double bucket_length,
                         const beam::reference& ref) {
  program p;
  writer write(p, energy_constants(ref));
  emit_boundary(boundary, bucket_length, write);
  return p;
}

double work_of(std::span<const operation> operations, const program& p) {
  double work = static_cast<double>(operations.size());
  for (const operation& op : operations) {
    if (op.code != operation::call) continue;
    if (const auto& code = p.calls[op.coefficients].tiles) work += code->cost;
  }
  return work;
}

program split_off_marks(program& p, const beam::reference& end) {
  const auto is_mark = [](const operation& op) {
    return op.code == operation::record || op.code == operation::observe;
  };
  auto first = p.operations.end();
  while (first != p.operations.begin() && is_mark(*(first - 1))) --first;
  program marks;
  marks.entrance_energy = energy_constants(end);
  marks.spin = p.spin;
  marks.anomaly = p.anomaly;
  for (auto op = first; op != p.operations.end(); ++op) {
    const bool record = op->code == operation::record;
    auto& from = record ? p.records : p.observations;
    auto& to = record ? marks.records : marks.observations;
    const auto number = static_cast<std::uint32_t>(to.size());
    to.push_back(from[op->coefficients]);
    marks.operations.push_back({op->code, number, op->element, op->s});
  }
  p.records.resize(p.records.size() - marks.records.size());
  p.observations.resize(p.observations.size() - marks.observations.size());
  p.operations.erase(first, p.operations.end());
  return marks;
}

orbit_map derivative(const line& l, std::size_t first, std::size_t last, beam::reference& ref,
                     const std::array<double, 6>& start) {
  lineariser linear(energy_constants(ref), std::nullopt, start);
  for (std::size_t i = first; i < last; ++i) {
    const element& e = *l.elements[i];
    validate(e);
    const int count = slice_count(e);
    for (int k = 0; k < count; ++k) push_piece(linear, e, k, count, ref);
  }
  return linear.result();
}

orbit_map derivative(const element& e, int index, int count, beam::reference& ref,
                     const std::array<double, 6>& start) {
  lineariser linear(energy_constants(ref), std::nullopt, start);
  push_piece(linear, e, index, count, ref);
  return linear.result();
}

orbit_map derivative(const elements::code_call& call, const std::array<double, 6>& start) {
  if (call.tiles == nullptr || !call.tiles->has_derivative()) {
    throw std::domain_error(
        "its code has no derivative: it is known for tile code with a pull, or with stated steps of differences");
  }
  const elements::tile_code& code = *call.tiles;
  const elements::code_place place = call.at(0, 0);
  constexpr std::size_t lanes = 16;
  double columns[6][lanes], weight[lanes];
  std::uint64_t id[lanes] = {};
  std::uint8_t outside[lanes];
  std::ranges::fill(weight, 1.0);
  const auto fill = [&](std::size_t count) {
    for (std::size_t i = 0; i < 6; ++i) std::ranges::fill(columns[i], start[i]);
    std::ranges::fill(outside, std::uint8_t{0});
    elements::code_tile<double> t{{}, weight, id, count, lanes, outside};
    for (std::size_t i = 0; i < 6; ++i) t.z[i] = columns[i];
    return t;
  };
  const auto push = [&](const elements::code_tile<double>& t) {
    code.push_double(place, t);
    const auto lost =
        std::find_if(outside, outside + t.count, [](std::uint8_t flag) { return flag != 0; }) -
        outside;
    for (std::size_t i = 0; i < 6; ++i) {
      for (std::size_t k = 0; k < t.count; ++k) {
        if (std::isfinite(columns[i][k]) && static_cast<std::size_t>(lost) == t.count) continue;
        throw std::domain_error("its code does not take the particle on the orbit through");
      }
    }
  };

  orbit_map r{};
  push(fill(1));
  for (std::size_t i = 0; i < 6; ++i) r.orbit[i] = columns[i][0];
  if (code.pull_double) {
    // one lane per row of the matrix
    const auto t = fill(6);
    double covector[6][lanes] = {};
    double* lambda[6];
    for (std::size_t i = 0; i < 6; ++i) {
      covector[i][i] = 1;
      lambda[i] = covector[i];
    }
    code.pull_double(place, t, lambda);
    for (std::size_t i = 0; i < 6; ++i) {
      for (std::size_t k = 0; k < 6; ++k) r.matrix[6 * i + k] = covector[k][i];
    }
    return r;
  }
  const auto t = fill(12);
  for (std::size_t k = 0; k < 6; ++k) {
    columns[k][2 * k] += code.steps[k];
    columns[k][2 * k + 1] -= code.steps[k];
  }
  double width[6];
  for (std::size_t k = 0; k < 6; ++k) width[k] = columns[k][2 * k] - columns[k][2 * k + 1];
  push(t);
  for (std::size_t i = 0; i < 6; ++i) {
    for (std::size_t k = 0; k < 6; ++k) {
      r.matrix[6 * i + k] = (columns[i][2 * k] - columns[i][2 * k + 1]) / width[k];
    }
  }
  return r;
}

void visit_maps(const element& e, int index, int count, beam::reference& ref,
                const map_visitor& visit) {
  std::array<double, 2> energy = energy_constants(ref);
  const elements::slice s = piece_of(e, ref, index, count, false);
  beam::reference behind = ref;
  advance(e, behind, s.piece().from, s.piece().to);  // throws where it cannot be passed
  emit_model(e, s, std::nullopt, [&]<class Map>(const Map& map) {
    if constexpr (is_call<Map>) {
      throw std::invalid_argument(describe(e) + ": code has no power series");
    } else if constexpr (!is_filter<Map> && !is_radiation<Map>) {
      visit(map, energy);
      energy = energy_behind(map, energy);
    }
  });
  ref = behind;
}

void visit_maps(const line& l, std::size_t first, std::size_t last, beam::reference& ref,
                const map_visitor& visit) {
  for (std::size_t i = first; i < last; ++i) {
    const element& e = *l.elements[i];
    validate(e);
    const int count = slice_count(e);
    for (int k = 0; k < count; ++k) visit_maps(e, k, count, ref, visit);
  }
}

spin_orbit_map spin_derivative(const line& l, beam::reference& ref,
                               const std::array<double, 6>& start) {
  check_spin(ref.particle);
  lineariser linear(energy_constants(ref), ref.particle.anomaly, start);
  for (const auto& e : l.elements) {
    validate(*e);
    for (int k = 0; k < slice_count(*e); ++k) {
      push_piece(linear, *e, k, slice_count(*e), ref, ref.particle.anomaly);
    }
  }
  const orbit_map r = linear.result();
  return {r.orbit, r.matrix, linear.rotation(), linear.slopes()};
}

}  // namespace betatron::lattice
