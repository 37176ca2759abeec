#include "lattice/program.h"

#include <cstring>
#include <optional>
#include <stdexcept>
#include <type_traits>
#include <variant>

#include "elements/misalignment.h"
#include "numerics/dual.h"

namespace betatron::lattice {

namespace {

using elements::all_maps;
using elements::energy_of;
using elements::phase_space;

using tangent = numerics::dual<double, 6>;

template <class Map>
concept changes_energy = requires { Map::changes_energy; };

template <class Map>
concept is_filter = Map::writes == 0;

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

/// One of all maps.
template <class List>
struct variant_of;
template <template <class> class... Maps>
struct variant_of<elements::map_list<Maps...>> {
  using type = std::variant<Maps<double>...>;
};
using any_map = variant_of<all_maps>::type;

/// Appends maps to a program.
class writer {
 public:
  writer(program& p, std::array<double, 2> energy) : program_(p), energy_(energy) {
    program_.entrance_energy = energy;
  }

  void place(std::size_t element, double s) {
    element_ = static_cast<std::int32_t>(element);
    s_ = s;
  }

  template <template <class> class Map>
  void operator()(const Map<double>& map) {
    constexpr int code = all_maps::code<Map>();
    static_assert(code >= 0, "a map must be listed in elements/kinds.h");
    constexpr std::size_t count = sizeof(Map<double>) / sizeof(double);
    const std::size_t at = program_.coefficients.size();
    program_.coefficients.resize(at + count);
    std::memcpy(program_.coefficients.data() + at, &map, sizeof(map));
    program_.operations.push_back({code, static_cast<std::uint32_t>(at), element_, s_});
    if constexpr (changes_energy<Map<double>>) refresh(energy_behind(map, energy_));
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
  program& program_;
  std::array<double, 2> energy_;
  std::int32_t element_ = 0;
  double s_ = 0;
};

/// Pushes the reference orbit and its six tangents through maps; gives the affine map around it.
class lineariser {
 public:
  lineariser(std::array<double, 2> energy, const std::array<double, 6>& start = {})
      : energy_(energy) {
    reset(start);
  }

  template <class Map>
  void operator()(const Map& map) {
    map.push(z_, energy_of(z_.pt, energy_[0], energy_[1]));
    energy_ = energy_behind(map, energy_);
    moved_ = true;
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
    moved_ = false;
  }

 private:
  phase_space<tangent> z_;
  std::array<double, 2> energy_;
  bool moved_ = false;
};

std::array<double, 2> energy_constants(const beam::reference& ref) {
  return {ref.inverse_beta(), ref.inverse_beta_gamma_squared()};
}

elements::aperture_filter<double> pipe_filter(const pipe_opening& p) {
  auto inverse_or_zero = [](double v) { return v != 0 ? 1 / v : 0; };
  return {inverse_or_zero(p.x), inverse_or_zero(p.y), {}, p.rectangular ? 0.0 : 1.0, 0.0};
}

/// Maps of one slice, forward, in the frame of the lattice.
template <class Emit>
void emit_slice(const element& e, const elements::slice& s, Emit&& emit) {
  const elements::stretch piece = s.piece();
  const bool perfect = e.align.is_perfect();
  if (!perfect) motion_at(e, piece.from).emit_step(true, s.ref.inverse_beta(), emit);
  std::visit([&](const auto& body) { emit_maps(body, s, emit); }, e.body);
  if (e.pipe.x != 0 || e.pipe.y != 0) emit(pipe_filter(e.pipe));
  if (perfect) return;
  beam::reference behind = s.ref;
  advance(e, behind, piece.from, piece.to);
  motion_at(e, piece.to).emit_step(false, behind.inverse_beta(), emit);
}

/// The same in the model of the element: the linear model is the derivative of the paraxial maps.
template <class Emit>
void emit_model(const element& e, const elements::slice& s, Emit&& emit) {
  if (s.model != elements::model::linear) return emit_slice(e, s, emit);
  elements::slice paraxial = s;
  paraxial.model = elements::model::paraxial;
  lineariser linear(energy_constants(s.ref));
  double bg_in = s.ref.beta_gamma();
  std::array<double, 6> start{};  // where the orbit stands at a filter inside the element
  auto flush = [&] {
    if (!linear.moved()) return;
    orbit_map r = linear.result();
    const std::array<double, 6> end = r.orbit;
    for (std::size_t i = 0; i < 6; ++i) {
      for (std::size_t k = 0; k < 6; ++k) r.orbit[i] -= r.matrix[6 * i + k] * start[k];
    }
    const double bg_out = 1 / std::sqrt(linear.energy()[1]);
    // without acceleration the two differ by rounding only
    const bool same = std::fabs(bg_out - bg_in) <= 4e-16 * bg_in;
    elements::emit_matrix(r.matrix, r.orbit, bg_in, same ? bg_in : bg_out, emit);
    bg_in = bg_out;
    start = end;
    linear.reset(start);
  };
  emit_slice(e, paraxial, [&]<class Map>(const Map& map) {
    if constexpr (is_filter<Map>) {
      flush();
      emit(map);
    } else {
      linear(map);
    }
  });
  flush();
}

void write_inverse(const any_map& map, writer& write) {
  std::visit(
      [&](const auto& m) {
        using map_type = std::decay_t<decltype(m)>;
        if constexpr (requires { map_type::has_no_inverse; }) {
          throw std::domain_error("it maps many particles onto one and has no inverse");
        } else if constexpr (requires { m.inverse(); }) {
          write(m.inverse());
        } else {
          emit_inverse(m, write);
        }
      },
      map);
}

/// The reference orbit and its tangents through one slice; ref is moved along.
void push_slice(lineariser& linear, const element& e, int index, beam::reference& ref) {
  const int count = slice_count(e);
  const elements::slice s{ref, e.model, e.order, e.steps, index, count, 1.0 / count};
  const elements::stretch piece = s.piece();
  beam::reference behind = ref;
  advance(e, behind, piece.from,
          piece.to);  // first, because it throws where the element cannot be passed
  emit_model(e, s, [&]<class Map>(const Map& map) {
    if constexpr (!is_filter<Map>) linear(map);
  });
  ref = behind;
}

/// Throws std::invalid_argument unless the boundary has what it needs.
void check_boundary(const compile_options& options) {
  if (options.boundary == elements::longitudinal_boundary::open) return;
  if (!(options.bucket_length > 0) || !std::isfinite(options.bucket_length)) {
    throw std::invalid_argument("bucket_length = " + std::to_string(options.bucket_length) +
                                " m is not allowed with a longitudinal boundary; allowed: > 0");
  }
  if (options.way == direction::backward) {
    throw std::invalid_argument(
        "a longitudinal boundary cannot be undone: backward tracking needs the boundary open");
  }
}

}  // namespace

program compile(const line& l, std::size_t first, std::size_t last, beam::reference& ref,
                const compile_options& options) {
  check_boundary(options);
  program p;
  p.operations.reserve(2 * (last - first));
  p.coefficients.reserve(8 * (last - first));
  writer write(p, energy_constants(ref));
  const bool forward = options.way == direction::forward;
  std::vector<any_map> maps;  // of one slice, when going backward

  for (std::size_t n = 0; n < last - first; ++n) {
    const std::size_t i = forward ? first + n : last - 1 - n;
    const element& e = *l.elements[i];
    validate(e);
    const int count = slice_count(e);
    const double fraction = 1.0 / count;
    const bool recorded = !options.recorded.empty() && options.recorded[i] != 0;
    const bool observed = !options.observed.empty() && options.observed[i] != 0;
    for (int k = 0; k < count; ++k) {
      beam::reference behind = ref;
      const elements::slice s{forward ? ref : behind,      e.model, e.order, e.steps,
                              forward ? k : count - 1 - k, count,   fraction};
      const elements::stretch piece = s.piece();
      advance(e, behind, forward ? piece.from : piece.to, forward ? piece.to : piece.from);
      write.place(i, behind.s);
      if (forward) {
        emit_model(e, s, write);
      } else {
        maps.clear();
        emit_model(e, s, [&](const auto& map) { maps.emplace_back(map); });
        try {
          for (auto m = maps.rbegin(); m != maps.rend(); ++m) write_inverse(*m, write);
        } catch (const std::domain_error& singular) {
          throw std::invalid_argument(describe(e) + ": " + singular.what());
        }
      }
      ref = behind;
      emit_boundary(options.boundary, options.bucket_length, write);
      if (recorded && (options.record_slices || k == count - 1)) write.record(i, k, ref);
      if (observed && k == count - 1) write.observe(i, k, ref);
    }
  }
  return p;
}

orbit_map derivative(const line& l, std::size_t first, std::size_t last, beam::reference& ref,
                     const std::array<double, 6>& start) {
  lineariser linear(energy_constants(ref), start);
  for (std::size_t i = first; i < last; ++i) {
    const element& e = *l.elements[i];
    validate(e);
    for (int k = 0; k < slice_count(e); ++k) push_slice(linear, e, k, ref);
  }
  return linear.result();
}

orbit_map derivative(const element& e, int index, beam::reference& ref,
                     const std::array<double, 6>& start) {
  lineariser linear(energy_constants(ref), start);
  push_slice(linear, e, index, ref);
  return linear.result();
}

}  // namespace betatron::lattice
