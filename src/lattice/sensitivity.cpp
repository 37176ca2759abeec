#include "lattice/sensitivity.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <unordered_map>
#include <unordered_set>

#include "numerics/constants.h"

namespace betatron::lattice {

std::string name_of(const knob& k) {
  return k.entry < 0 ? k.parameter : k.parameter + "[" + std::to_string(k.entry) + "]";
}

namespace {

using beam::reference;

const parameter_info* find_in(const std::vector<parameter_info>& list, std::string_view name) {
  for (const parameter_info& p : list) {
    if (p.name == name) return &p;
  }
  return nullptr;
}

/// A displacement: a parameter of the frame of an element, not of its body.
bool is_common(const knob& k) { return find_in(common_parameters(), k.parameter) != nullptr; }

/// How a parameter changes things, where its value does not say: a size that is usual for it. In other units than those
/// of the fields of magnets 1 would be far too little, and steps of differences lost in rounding.
double usual_size(const parameter_info& info) {
  if (info.name == "density") return 1e21;  // a sextupole has a strength of the same unit
  if (info.unit == "V" || info.unit == "V/m") return 1e6;
  if (info.unit == "V/m^2") return 1e12;
  if (info.unit == "Hz") return 1e9;
  return 1;
}

/// The same for a knob with the value x. Where maps follow the clock of the reference, which shows `time` [m], a step
/// must not turn its phase many times: differences could vanish by chance.
double scale_of(const parameter_info& info, double x, bool clock, double time) {
  double scale = std::max(std::fabs(x), 0.1 * usual_size(info));
  if (!clock) return scale;
  if (info.unit == "Hz") {
    const double turns = std::max(std::fabs(time), 1.0) / numerics::constants::speed_of_light;
    scale = std::min(scale, 0.5 / turns);
  } else if (info.name == "length") {
    scale = std::min(scale, 0.1);
  }
  return scale;
}

/// The number that a knob turns. Ranges are not checked: derivatives look at both sides of a limit.
double* number_of(element& e, const knob& k) {
  const std::string_view name = k.parameter;
  if (name == "dx") return &e.align.dx;
  if (name == "dy") return &e.align.dy;
  if (name == "dz") return &e.align.dz;
  if (name == "pitch") return &e.align.pitch;
  if (name == "yaw") return &e.align.yaw;
  if (name == "roll") return &e.align.roll;
  double* found = nullptr;
  std::visit(
      [&](auto& body) {
        auto look = [&](const auto& p) {
          using type = std::decay_t<decltype(body.*(p.member))>;
          if (p.name != name) return;
          if constexpr (std::is_same_v<type, double>) {
            if (k.entry < 0) found = &(body.*(p.member));
          } else if constexpr (std::is_same_v<type, std::vector<double>>) {
            auto& list = body.*(p.member);
            if (k.entry >= 0 && static_cast<std::size_t>(k.entry) < list.size()) {
              found = &list[static_cast<std::size_t>(k.entry)];
            }
          }
        };
        std::apply([&](const auto&... p) { (look(p), ...); },
                   std::decay_t<decltype(body)>::parameters);
      },
      e.body);
  return found;
}

const parameter_info* info_of(const element& e, std::string_view parameter) {
  const parameter_info* own = find_in(find_kind(kind_of(e)).parameters, parameter);
  return own ? own : find_in(common_parameters(), parameter);
}

/// What a slice must keep for the sake of a knob.
void prepare(slice_request& which, const knob& k) {
  (is_common(k) ? which.keep_frames : which.keep_structure) = true;
}

using values = std::vector<double>;

/// Which values are as large as their rounding errors say only together: the entries of a matrix are sums of others, and
/// its offset is what is left of the way into a displaced element and out of it.
struct groups {
  std::vector<std::size_t> of{};  ///< one number per value; those that share one belong together
  std::vector<std::size_t> offsets{};  ///< the numbers of those that are offsets
  double displacement = 0;             ///< what offsets are made of
};

/// The size of what an element is displaced by, in m and rad.
double displacement_of(const element& e) {
  const alignment& a = e.align;
  const double angles = std::fabs(a.pitch) + std::fabs(a.yaw), reach = std::fabs(length(e));
  return std::fabs(a.dx) + std::fabs(a.dy) + std::fabs(a.dz) + angles * (1 + reach) +
         std::fabs(a.roll * curvature(e)) * reach;
}

/// Appends the groups of the coefficients of a program.
void append_groups(const program& p, groups& together) {
  auto& to = together.of;
  const std::size_t shift = to.size();
  for (std::size_t i = 0; i < p.coefficients.size(); ++i) to.push_back(shift + i);
  for (const operation& op : p.operations) {
    std::size_t entries = 0, offset = 6;
    if (op.code == elements::all_maps::code<elements::linear_dense>()) entries = 36;
    if (op.code == elements::all_maps::code<elements::linear_midplane>()) entries = 14;
    if (op.code == reverse_operation::matrix) entries = 36;
    if (op.code == elements::all_maps::code<elements::frame_patch>()) entries = 9, offset = 4;
    if (entries == 0) continue;
    const std::size_t first = shift + op.coefficients;
    for (std::size_t i = 0; i < entries; ++i) to[first + i] = first;
    for (std::size_t i = 0; i < offset; ++i) to[first + entries + i] = first + entries;
    together.offsets.push_back(first + entries);
  }
}

/// Central differences: derivatives of order 1 and 2, each of order 8 and 6 of the step h, are sums of weights times
/// f(x + j h) - f(x - j h) over h, or f(x + j h) - 2 f(x) + f(x - j h) over h^2.
constexpr double central_weights[2][2][4] = {
    {{4.0 / 5, -1.0 / 5, 4.0 / 105, -1.0 / 280}, {3.0 / 4, -3.0 / 20, 1.0 / 60, 0}},
    {{8.0 / 5, -1.0 / 5, 8.0 / 315, -1.0 / 560}, {3.0 / 2, -3.0 / 20, 1.0 / 90, 0}}};

/// The slope of a function of which `at` holds the values at h, -h, 2h and -2h from the middle, if it is linear to
/// rounding.
std::optional<values> slope_if_linear(const std::optional<values>* at, double h) {
  values slope(at[0]->size());
  for (std::size_t c = 0; c < slope.size(); ++c) {
    const double near = (*at[0])[c] - (*at[1])[c], far = (*at[2])[c] - (*at[3])[c];
    const double largest = std::max(std::fabs((*at[2])[c]), std::fabs((*at[3])[c]));
    if (!(std::fabs(far - 2 * near) <= 4.4e-16 * largest)) return {};
    slope[c] = far / (4 * h);
  }
  return slope;
}

/// The derivative of f at x of order 1 or 2 by central differences; f gives nothing where it is not
/// defined. `scale` is a length on which f varies; values behind those of `together` stand alone.
/// Throws std::domain_error where no step gives one.
values derivative_of(const std::function<std::optional<values>(double)>& f, double x, double scale,
                     const groups& together, int derivative = 1) {
  const auto& weight = central_weights[derivative - 1];
  const double ulps = derivative == 1 ? 2.2e-16 : 8.8e-16;
  constexpr int most_steps = 16;
  values best, error, size;
  auto usable = [&] {
    // entries of a matrix that are 0 but for rounding are not smooth, and do not matter
    const double floor = 1e-12 * *std::ranges::max_element(size);
    const double length = derivative == 1 ? scale : scale * scale;
    // first derivatives of k |k| exist at 0, where their differences converge slowly
    const double part = derivative == 1 ? 1e-6 : 1e-9;
    for (std::size_t c = 0; c < best.size(); ++c) {
      const double visible = std::max(part * size[c], floor);
      if (error[c] > 1e-4 * std::fabs(best[c]) && error[c] * length > visible) return false;
    }
    return true;
  };
  std::optional<values> middle;
  if (derivative == 2) {
    middle = f(x);
    if (!middle) throw std::domain_error("it cannot be tracked there");
  }
  int idle = 0;
  // powers of 2, so that x +- j h has hardly a rounding error
  double h = std::exp2(std::floor(std::log2(scale / 16)));
  for (int i = 0; i < most_steps && idle < 3; ++i, h /= derivative == 1 ? 4 : 2) {
    std::optional<values> at[8];
    bool complete = true;
    for (int j = 0; j < 4 && complete; ++j) {
      at[2 * j] = f(x + (j + 1) * h);
      at[2 * j + 1] = f(x - (j + 1) * h);
      complete = at[2 * j] && at[2 * j + 1];
      // over the longest step only: within a short one rounding hides everything
      if (i == 0 && j == 1 && complete && derivative == 1) {
        if (auto slope = slope_if_linear(at, h)) return *slope;
      }
    }
    if (!complete) continue;
    const std::size_t n = at[0]->size();
    if (best.empty()) {
      best.assign(n, 0);
      size.assign(n, 0);
      error.assign(n, std::numeric_limits<double>::infinity());
    }
    values largest(n, 0);
    for (const std::size_t c : together.offsets) largest[c] = together.displacement;
    auto group = [&](std::size_t c) { return c < together.of.size() ? together.of[c] : c; };
    for (std::size_t c = 0; c < n; ++c) {
      for (const auto& v : at) largest[group(c)] = std::max(largest[group(c)], std::fabs((*v)[c]));
    }
    const double over = derivative == 1 ? h : h * h;
    bool improved = false, done = true, settled = true;
    for (std::size_t c = 0; c < n; ++c) {
      double fine = 0, coarse = 0;
      bool varies = false;
      for (int j = 0; j < 4; ++j) {
        const double ahead = (*at[2 * j])[c], behind = (*at[2 * j + 1])[c];
        const double difference =
            derivative == 1 ? ahead - behind : (ahead - (*middle)[c]) + (behind - (*middle)[c]);
        varies = varies || difference != 0;
        fine += weight[0][j] * difference;
        coarse += weight[1][j] * difference;
      }
      fine /= over;
      coarse /= over;
      // what does not change over the longest step does not change at all
      const bool constant = !varies && std::isinf(error[c]);
      const double truncated = std::fabs(fine - coarse), rounded = ulps * largest[group(c)] / over;
      const double doubt = constant ? 0 : truncated + rounded;
      settled = settled && (constant || truncated <= rounded);
      if (doubt < error[c]) {
        error[c] = doubt;
        best[c] = fine;
        size[c] = largest[group(c)];
        improved = true;
      }
      done = done && error[c] <= 1e-13 * std::fabs(best[c]);
    }
    if (done) return best;
    if (settled && usable()) return best;  // shorter steps only round more
    idle = improved || !usable() ? 0 : idle + 1;
  }
  if (best.empty()) throw std::domain_error("no neighbouring value can be tracked in the same way");
  if (!usable()) throw std::domain_error("the map of the element is not smooth there");
  return best;
}

/// Sets to 0 the coefficients that only bound an argument: they do not matter, and are not smooth.
void forget_bounds(const program& p, double* coefficients) {
  static const std::vector<std::vector<std::size_t>> bounds = [] {
    std::vector<std::vector<std::size_t>> r;
    elements::all_maps::for_each([&]<template <class> class Map>() {
      const Map<double> map{};
      const auto add = [&](const double& member) {
        r.back().push_back(
            static_cast<std::size_t>(&member - reinterpret_cast<const double*>(&map)));
      };
      r.emplace_back();
      if constexpr (requires { map.reach; }) add(map.reach);
      if constexpr (requires { map.reach_x; }) add(map.reach_x);
      if constexpr (requires { map.reach_y; }) add(map.reach_y);
    });
    return r;
  }();
  for (const operation& op : p.operations) {
    if (op.code >= operation::map_count) continue;
    for (const std::size_t k : bounds[static_cast<std::size_t>(op.code)]) {
      coefficients[op.coefficients + k] = 0;
    }
  }
}

/// Everything of a slice that may vary: coefficients of its inverse, then 1/beta0 and 1/(beta0
/// gamma0)^2 behind, where rates are wanted those of the maps themselves, and kinetic energy and
/// time of the reference behind.
struct slice_state {
  program inverse;
  reference behind;
  program forward{};

  values all() const {
    values v;
    v.reserve(inverse.coefficients.size() + forward.coefficients.size() + 4);
    v = inverse.coefficients;
    for (const operation& op :
         inverse.operations) {  // derivatives follow from the matrix, not from its inverse
      if (op.code == reverse_operation::matrix)
        std::fill_n(v.begin() + op.coefficients + 42, 37, 0.0);
    }
    forget_bounds(inverse, v.data());
    v.insert(v.end(), inverse.entrance_energy.begin(), inverse.entrance_energy.end());
    const std::size_t at = v.size();
    v.insert(v.end(), forward.coefficients.begin(), forward.coefficients.end());
    forget_bounds(forward, v.data() + at);
    v.push_back(behind.kinetic);
    v.push_back(behind.t);
    return v;
  }
  bool same_structure(const slice_state& other) const {
    return std::ranges::equal(inverse.operations, other.inverse.operations,
                              [](const operation& a, const operation& b) {
                                return a.code == b.code && a.coefficients == b.coefficients;
                              });
  }
};

/// Of slice_state::all().
groups groups_of(const slice_state& s) {
  groups together;
  append_groups(s.inverse, together);
  for (std::size_t i = 0; i < s.inverse.entrance_energy.size(); ++i) {
    together.of.push_back(together.of.size());
  }
  append_groups(s.forward, together);
  return together;
}

/// Tracked with a matrix of the user, which need not be symplectic.
bool is_matrix(const element& e) {
  if (std::holds_alternative<elements::linear_map>(e.body)) return true;
  const auto* series = std::get_if<elements::taylor_map>(&e.body);
  if (series == nullptr) return false;
  return e.model == elements::model::linear ||
         series->coefficients.size() == 6 * elements::taylor_terms(1);
}

/// Appends what undoes the map with this code and these coefficients; false if it has no inverse of its own kind.
bool append_inverse(const operation& op, const double* coefficients, program& to) {
  int code = 0;
  bool found = false;
  elements::all_maps::for_each([&]<template <class> class Map>() {
    if (code++ != op.code) return;
    if constexpr (requires(const Map<double>& m) { m.inverse(); }) {
      Map<double> map;
      std::memcpy(&map, coefficients, sizeof map);
      map = map.inverse();
      operation back = op;
      back.coefficients = static_cast<std::uint32_t>(to.coefficients.size());
      to.coefficients.resize(to.coefficients.size() + sizeof map / sizeof(double));
      std::memcpy(to.coefficients.data() + back.coefficients, &map, sizeof map);
      to.operations.push_back(back);
      found = true;
    }
  });
  return found;
}

std::size_t coefficient_count(int code);

/// What takes covectors back through a slice that has no inverse: reverse_operation::matrix for matrices, of users and
/// of the linear model, reverse_operation::pushed for other maps without one, and the inverse of those that have one.
program pulled_program(const element& e, const slice_request& which, reference& ref) {
  slice_request forward = which;
  forward.inverse = false;
  forward.keep_structure = true;  // always dense
  const std::array front{ref.inverse_beta(), ref.inverse_beta_gamma_squared()};
  const program p = compile_slice(e, forward, ref);
  program r;
  r.entrance_energy = {ref.inverse_beta(), ref.inverse_beta_gamma_squared()};
  for (auto op = p.operations.rbegin(); op != p.operations.rend(); ++op) {
    if (op->code == operation::refresh) continue;  // put behind the map below
    const double* c = p.coefficients.data() + op->coefficients;
    auto append = [&](int code, auto first, auto last) {
      operation o = *op;
      o.code = code;
      o.coefficients = static_cast<std::uint32_t>(r.coefficients.size());
      r.coefficients.insert(r.coefficients.end(), first, last);
      r.operations.push_back(o);
    };
    if (op->code != elements::all_maps::code<elements::linear_dense>()) {
      if (append_inverse(*op, c, r)) continue;
      std::vector<double> all(c, c + coefficient_count(op->code));
      all.insert(all.end(), front.begin(), front.end());
      append(reverse_operation::pushed + op->code, all.begin(), all.end());
      append(operation::refresh, front.begin(), front.end());
      continue;
    }
    elements::matrix6 m, back{};
    std::copy_n(c, 36, m.begin());
    double regular = 1;
    try {
      back = elements::inverse(m);
    } catch (const std::domain_error&) {
      regular = 0;
    }
    std::vector<double> both(c, c + 42);
    both.insert(both.end(), back.begin(), back.end());
    both.push_back(regular);
    append(reverse_operation::matrix, both.begin(), both.end());
    append(operation::refresh, front.begin(), front.end());
  }
  return r;
}

bool has(const program& p, int code) {
  return std::ranges::any_of(p.operations, [=](const operation& op) { return op.code == code; });
}
bool has_call(const program& p) { return has(p, operation::call); }

/// What undoes a slice with tile code: the maps around it, and the place of the call, whose number is counted within the
/// slice.
program call_program(const program& forward, const reference& front, const reference& behind) {
  program r;
  const auto energy_of = [](const reference& ref) {
    return std::array{ref.inverse_beta(), ref.inverse_beta_gamma_squared()};
  };
  r.entrance_energy = energy_of(behind);
  for (auto op = forward.operations.rbegin(); op != forward.operations.rend(); ++op) {
    if (op->code == operation::refresh) continue;  // put behind the call below
    if (op->code != operation::call) {
      append_inverse(*op, forward.coefficients.data() + op->coefficients, r);
      continue;
    }
    r.operations.push_back(*op);
    const auto energy = energy_of(front);
    r.operations.push_back({operation::refresh, static_cast<std::uint32_t>(r.coefficients.size()),
                            op->element, op->s});
    r.coefficients.insert(r.coefficients.end(), energy.begin(), energy.end());
  }
  return r;
}

/// Slice `index` of an element, as what undoes it, or without an inverse takes covectors back; forward: with the
/// coefficients of the maps too. Throws as compile_slice.
slice_state state_of(const element& e, slice_request which, const reference& ref, bool forward,
                     bool has_inverse) {
  slice_state s{{}, ref};
  if (forward) {
    reference there = ref;
    s.forward = compile_slice(e, which, there);
  }
  if (std::holds_alternative<elements::programmable>(e.body)) {
    const program maps = compile_slice(e, which, s.behind);
    if (has_call(maps)) {
      s.inverse = call_program(maps, ref, s.behind);
      return s;
    }
    s.behind = ref;
  }
  which.inverse = has_inverse;
  s.inverse = has_inverse ? compile_slice(e, which, s.behind) : pulled_program(e, which, s.behind);
  return s;
}

/// Coefficients of an operation of a reverse program.
std::size_t coefficient_count(int code) {
  if (code == reverse_operation::matrix) return 79;
  if (code >= reverse_operation::pushed) {
    return coefficient_count(code - reverse_operation::pushed) + 2;
  }
  if (code == operation::mark) return sizeof(elements::radiation_mark<double>) / sizeof(double);
  if (code == operation::radiate) return sizeof(elements::radiation_loss<double>) / sizeof(double);
  if (code == operation::refresh) return 2;
  if (code == operation::call) return 0;
  static const std::vector<std::size_t> counts = [] {
    std::vector<std::size_t> r;
    elements::all_maps::for_each(
        [&]<template <class> class Map>() { r.push_back(sizeof(Map<double>) / sizeof(double)); });
    return r;
  }();
  return counts[static_cast<std::size_t>(code)];
}

/// Filters leave what passes them as it is.
bool does_nothing(int code) {
  static const std::vector<bool> filters = [] {
    std::vector<bool> r;
    elements::all_maps::for_each(
        [&]<template <class> class Map>() { r.push_back(Map<double>::writes == 0); });
    return r;
  }();
  return code < operation::map_count && filters[static_cast<std::size_t>(code)];
}

class differentiator {
 public:
  differentiator(const line& l, const reference& start, const sensitivity_options& options)
      : line_(l), options_(options), clock_(follows_clock(l)) {
    for (std::size_t k = 0; k < options.knobs.size(); ++k) {
      check(options.knobs[k]);
      knobs_[options.knobs[k].of.get()].push_back(k);
    }
    check_presence();
    if (options.radiation) check_radiation(*options.radiation);
    check_boundary(options.boundary, options.bucket_length);
    pass(start);
    vary_reference();
    if (wants_rates()) find_rates(start);
    link();
  }

  sensitivity result() && { return std::move(r_); }

 private:
  /// Something that a slice depends on: a knob of its element, or the reference in front.
  struct variable {
    static constexpr std::ptrdiff_t kinetic = -1, time = -2;
    std::ptrdiff_t which;  // the number of the knob, or one of these
    double value, scale;
  };

  struct slice_work {
    std::size_t element;
    slice_request which;
    reference front;
    slice_state state;
    std::size_t first_forward, last_forward;  // operations of the forward program
    struct direction {
      values tangents;  // of slice_state::all()
      std::uint32_t sum;
      variable by;
      values rates{};
    };
    std::vector<direction> directions{};
    values rates{};  // of slice_state::all()
    bool has_inverse = true;
  };

  /// Rates along a direction are wanted.
  bool wants_rates() const { return !options_.along.empty() || options_.along_kinetic != 0; }

  void check_presence() const {
    std::unordered_set<const element*> present;
    for (const auto& e : line_.elements) present.insert(e.get());
    for (const knob& k : options_.knobs) {
      if (!present.contains(k.of.get())) {
        throw std::invalid_argument(describe(*k.of) + ": its " + lattice::name_of(k) +
                                    " has no effect, the element is not in the line");
      }
    }
  }

  /// Forward through the line: the program, the inverse slices, and their derivatives with respect to knobs.
  void pass(const reference& start) {
    reference ref = start;
    program& p = r_.forward;
    p.entrance_energy = {ref.inverse_beta(), ref.inverse_beta_gamma_squared()};
    if (options_.radiation) {
      p.radiation = true;
      p.noise_seed = options_.radiation->seed;
    }
    auto record = [&](std::int32_t element, int slice) {
      const auto number = static_cast<std::uint32_t>(p.records.size());
      p.records.push_back({element, slice, ref});
      slices_before_.push_back(slices_.size());
      p.operations.push_back({operation::record, number, element, ref.s});
    };
    if (options_.record_start) record(-1, 0);
    const std::size_t n = line_.elements.size();
    slices_.reserve(n + options_.stops.size());
    const element* checked = nullptr;
    position here{};
    for (std::size_t k = 0; k <= options_.stops.size(); ++k) {
      const bool at_end = k == options_.stops.size();
      const position there = at_end ? position{n} : options_.stops[k];
      for (const piece& now : pieces(line_, here, there, direction::forward)) {
        const std::size_t i = now.element;
        const element& e = *line_.elements[i];
        if (&e != checked) validate(e);
        checked = &e;
        const auto active = knobs_.find(&e);
        slice_request which{now.index, now.count};
        if (options_.radiation) which.radiation = &*options_.radiation;
        if (active != knobs_.end()) {
          for (const std::size_t number : active->second) prepare(which, options_.knobs[number]);
        }
        reference behind = ref;
        const std::size_t before = p.operations.size();
        append(compile_slice(e, which, behind), i);
        slices_.push_back({i, which, ref, {{}, ref}, before, p.operations.size()});
        slice_work& s = slices_.back();
        find_state(s);
        r_.slices.push_back({static_cast<std::int32_t>(i)});
        if (active != knobs_.end()) {
          for (const std::size_t number : active->second) vary(s, number);
        }
        ref = s.state.behind;
        if (now.ends_slice) {
          append(compile_boundary(options_.boundary, options_.bucket_length, ref), i);
        }
        const int last = slice_count(e) - 1;
        if (!now.ends_slice || now.slice != last) continue;
        const bool flagged = !options_.recorded.empty() && options_.recorded[i] != 0;
        if (flagged || (options_.record_end && i + 1 == n)) {
          record(static_cast<std::int32_t>(i), last);
        }
      }
      if (at_end) break;
      r_.stops.push_back({static_cast<std::uint32_t>(p.operations.size()), 0, slices_.size(), ref});
      here = there;
    }
    if (n == 0 && options_.record_end) record(-1, 0);
    r_.exit_energy = {ref.inverse_beta(), ref.inverse_beta_gamma_squared()};
    r_.length = ref.s - start.s;
  }

  /// Its state, by maps that undo it if there are such.
  void find_state(slice_work& s) const {
    const element& e = *line_.elements[s.element];
    s.has_inverse = !is_matrix(e);
    try {
      s.state = state_of(e, s.which, s.front, wants_rates(), s.has_inverse);
    } catch (const std::invalid_argument&) {
      const auto own = r_.forward.operations.begin() + static_cast<std::ptrdiff_t>(s.first_forward);
      const bool radiates = std::any_of(own, r_.forward.operations.end(), [](const operation& op) {
        return op.code == operation::mark || op.code == operation::radiate;
      });
      if (radiates || !s.has_inverse) throw;
      s.has_inverse = false;
      s.state = state_of(e, s.which, s.front, wants_rates(), false);
    }
  }

  void append(const program& piece, std::size_t element) {
    program& p = r_.forward;
    const auto shift = static_cast<std::uint32_t>(p.coefficients.size());
    p.coefficients.insert(p.coefficients.end(), piece.coefficients.begin(),
                          piece.coefficients.end());
    const auto calls = static_cast<std::uint32_t>(p.calls.size());
    for (const elements::code_call& c : piece.calls) {
      if (c.tiles == nullptr) {
        throw std::invalid_argument(describe(*line_.elements[element]) +
                                    ": code for the whole beam has no derivative");
      }
      if (!c.tiles->has_derivative()) {
        throw std::invalid_argument(
            describe(*line_.elements[element]) +
            ": its code has no derivative; allowed: code with a pull, or with "
            "stated steps of differences");
      }
      p.calls.push_back(c);
    }
    for (operation op : piece.operations) {
      op.coefficients += op.code == operation::call ? calls : shift;
      op.element = static_cast<std::int32_t>(element);
      p.operations.push_back(op);
    }
  }

  std::string name_of(const variable& v) const {
    if (v.which == variable::kinetic) return "the energy of the reference";
    if (v.which == variable::time) return "the time of the reference";
    return lattice::name_of(options_.knobs[static_cast<std::size_t>(v.which)]);
  }

  /// The number that stands for a variable in copies of element and reference.
  double& target(const variable& v, element& e, reference& ref) const {
    if (v.which == variable::kinetic) return ref.kinetic;
    if (v.which == variable::time) return ref.t;
    return *number_of(e, options_.knobs[static_cast<std::size_t>(v.which)]);
  }

  /// The derivative of a slice, of order 1 or 2, at x of what `change` makes of copies of element
  /// and reference.
  template <class Change>
  values derivative(const slice_work& s, double x, double scale, int order, const variable& by,
                    const Change& change) const {
    const element& e = *line_.elements[s.element];
    groups together = groups_of(s.state);
    auto at = [&](double value) -> std::optional<values> {
      element changed = e;
      reference ref = s.front;
      if (!clock_) ref.t = 0;
      change(changed, ref, value);
      together.displacement = std::max(together.displacement, displacement_of(changed));
      try {
        const slice_state state = state_of(changed, s.which, ref, wants_rates(), s.has_inverse);
        if (!state.same_structure(s.state)) return {};
        return state.all();
      } catch (const std::exception&) {
        return {};
      }
    };
    try {
      return derivative_of(at, x, scale, together, order);
    } catch (const std::domain_error& why) {
      throw std::invalid_argument(describe(e) + " cannot be differentiated " +
                                  (order == 2 ? "twice " : "") + "with respect to " + name_of(by) +
                                  " = " + std::to_string(by.value) + ": " + why.what());
    }
  }

  values derivative(const slice_work& s, const variable& v) const {
    return derivative(s, v.value, v.scale, 1, v,
                      [&](element& e, reference& ref, double x) { target(v, e, ref) = x; });
  }

  /// Adds a direction unless nothing in the slice depends on it; the number of its sum, or -1.
  std::int64_t add(slice_work& s, values tangents, const variable& by) {
    // what does not change to first order may to second
    if (!wants_rates() &&
        std::all_of(tangents.begin(), tangents.end() - 2, [](double t) { return t == 0; })) {
      return -1;
    }
    s.directions.push_back({std::move(tangents), r_.sums, by});
    return r_.sums++;
  }

  void vary(slice_work& s, std::size_t number) {
    const knob& k = options_.knobs[number];
    if (has_call(s.state.inverse) && !is_common(k)) {
      throw std::invalid_argument(describe(*line_.elements[s.element]) +
                                  " has no derivative by its " + lattice::name_of(k) +
                                  ": it is not known how its code depends on that");
    }
    element copy = *line_.elements[s.element];
    const double x = *number_of(copy, k);
    const parameter_info* info = info_of(copy, k.parameter);
    const variable by{static_cast<std::ptrdiff_t>(number), x,
                      scale_of(*info, x, clock_, s.front.t)};
    values d = cached(s, number, 0, [&] { return derivative(s, by); });
    const slice_sensitivity::moved behind{d[d.size() - 2], d[d.size() - 1]};
    const std::int64_t sum = add(s, std::move(d), by);
    if (behind.kinetic != 0 || (behind.time != 0 && clock_)) moves_reference_ = true;
    // perhaps only to second order, as the phase of a cavity on crest
    if (wants_rates() && (clock_ || has(s.state.inverse, operation::refresh))) {
      moves_reference_ = true;
    }
    // the sum of what does not depend on the knob is not used, but its place must exist
    const auto place = sum >= 0 ? static_cast<std::uint32_t>(sum) : unused_sum();
    r_.slices.back().knobs.push_back({number, place, behind});
    if (moves_reference_ && first_moved_ == none) first_moved_ = slices_.size();
    if (behind.kinetic != 0 && first_accelerated_ == none) first_accelerated_ = slices_.size();
  }

  std::uint32_t unused_sum() {
    if (unused_ == none) unused_ = r_.sums++;
    return static_cast<std::uint32_t>(unused_);
  }

  /// Slices of the same element at the same energy have the same derivatives, unless they follow
  /// the clock. rate: of that energy, where it matters.
  template <class Make>
  values cached(const slice_work& s, std::size_t what, double rate, Make&& make) {
    if (clock_) return make();
    const auto key = std::tuple(line_.elements[s.element].get(), s.which.index, s.which.count, what,
                                s.front.kinetic, rate);
    const auto found = cache_.find(key);
    if (found != cache_.end()) return found->second;
    return cache_.emplace(key, make()).first->second;
  }

  /// The dependence on the reference particle, where something in front can move it.
  void vary_reference() {
    std::size_t first = options_.reference_energy ? 0 : first_moved_;
    bool energy = options_.reference_energy;  // can be moved in front of here
    for (; first < slices_.size(); ++first) {
      slice_work& s = slices_[first];
      energy = energy || (first_accelerated_ != none && first >= first_accelerated_);
      if (has_call(s.state.inverse)) {
        if (!energy) continue;  // its derivative is that at a given time of the reference
        throw std::invalid_argument(
            describe(*line_.elements[s.element]) +
            ": what its code does with another energy of the reference is not known; allowed: no derivative "
            "by the energy of the reference, or by what changes it in front of this element");
      }
      slice_sensitivity& to = r_.slices[first];
      const variable by_kinetic{variable::kinetic, s.front.kinetic, s.front.kinetic};
      const values d =
          cached(s, options_.knobs.size(), 0, [&] { return derivative(s, by_kinetic); });
      to.by_kinetic = {d[d.size() - 2], d[d.size() - 1]};
      to.kinetic_sum = add(s, d, by_kinetic);
      const bool follows = std::visit([](const auto& b) { return requires { b.follows_clock; }; },
                                      line_.elements[s.element]->body);
      if (!follows) continue;
      const variable by_time{variable::time, s.front.t, 0.1};
      const values t = derivative(s, by_time);
      to.by_time = {t[t.size() - 2], t[t.size() - 1]};
      energy = energy || to.by_time.kinetic != 0;
      to.time_sum = add(s, t, by_time);
    }
  }

  /// How fast a variable of a slice changes, where kinetic energy and time of the reference in
  /// front do so as `front`.
  double rate_of(const variable& v, const slice_sensitivity::moved& front) const {
    if (v.which == variable::kinetic) return front.kinetic;
    if (v.which == variable::time) return front.time;
    return options_.along.empty() ? 0 : options_.along[static_cast<std::size_t>(v.which)];
  }

  /// The rate of the derivative of a slice by one of its variables, d2/da de: where all variables
  /// but this one stand still its second derivative; else, with D the second derivative along a
  /// direction, (D_{a+e} - D_{a-e})/4.
  values rate_of_tangents(const slice_work& s, const variable& by,
                          const slice_sensitivity::moved& front) const {
    double fastest = 0;
    bool alone = true;
    for (const slice_work::direction& d : s.directions) {
      const double rate = rate_of(d.by, front);
      fastest = std::max(fastest, std::fabs(rate) / d.by.scale);
      alone = alone && (rate == 0 || d.by.which == by.which);
    }
    if (fastest == 0) return values(s.directions.front().tangents.size(), 0.0);
    const auto along = [&](double a, double e) {
      return derivative(s, 0, 1, 2, by, [&, a, e](element& changed, reference& ref, double x) {
        target(by, changed, ref) += x * a;
        for (const slice_work::direction& d : s.directions) {
          const double rate = rate_of(d.by, front);
          if (e != 0 && rate != 0) target(d.by, changed, ref) += x * e * rate;
        }
      });
    };
    const double length = std::exp2(std::floor(std::log2(by.scale)));  // see derivative_of
    if (alone) {
      values r = along(length, 0);
      const double factor = rate_of(by, front) / (length * length);
      for (double& x : r) x *= factor;
      return r;
    }
    values r = along(length, 1 / fastest);
    const values other = along(length, -1 / fastest);
    const double factor = fastest / (4 * length);
    for (std::size_t i = 0; i < r.size(); ++i) r[i] = (r[i] - other[i]) * factor;
    return r;
  }

  /// Of all slices, and of the reference on its way: what its rates depend on is in front.
  void find_rates(const reference& start) {
    slice_sensitivity::moved front{options_.along_kinetic, 0};
    std::vector<slice_sensitivity::moved> in_front{front};
    const double kinetic = start.kinetic, energy = kinetic * (kinetic + 2);  // (beta gamma)^2
    r_.rates.entrance_energy[1] = -2 * (kinetic + 1) / (energy * energy) * front.kinetic;
    r_.rates.entrance_energy[0] = r_.rates.entrance_energy[1] / (2 * start.inverse_beta());
    r_.rates.exit_energy = r_.rates.entrance_energy;
    for (std::size_t n = 0; n < slices_.size(); ++n) {
      slice_work& s = slices_[n];
      if (has_call(s.state.inverse)) {
        throw std::invalid_argument(describe(*line_.elements[s.element]) +
                                    ": its code has no second derivative");
      }
      for (const slice_work::direction& d : s.directions) {
        const double rate = std::fabs(rate_of(d.by, front)) / d.by.scale;
        r_.rates.fastest = std::max(r_.rates.fastest, rate);
      }
      s.rates.assign(s.state.all().size(), 0.0);
      for (slice_work::direction& d : s.directions) {
        const double rate = rate_of(d.by, front);
        for (std::size_t i = 0; i < s.rates.size(); ++i) s.rates[i] += rate * d.tangents[i];
        const auto what = static_cast<std::size_t>(d.by.which) + 2 * options_.knobs.size() + 2;
        d.rates = cached(s, what, front.kinetic, [&] { return rate_of_tangents(s, d.by, front); });
      }
      const auto last_two = [](const values& v) {
        return slice_sensitivity::moved{v[v.size() - 2], v[v.size() - 1]};
      };
      slice_sensitivity& to = r_.slices[n];
      sensitivity_rates::of_slice rates;
      // directions are first those of the knobs, then those of the reference
      for (std::size_t k = 0; k < to.knobs.size(); ++k) {
        rates.knobs.push_back(last_two(s.directions[k].rates));
      }
      bool follows = false;
      for (std::size_t k = to.knobs.size(); k < s.directions.size(); ++k) {
        const slice_work::direction& d = s.directions[k];
        follows = follows || d.by.which == variable::time;
        (d.by.which == variable::time ? rates.by_time : rates.by_kinetic) = last_two(d.rates);
      }
      slice_sensitivity::moved behind = last_two(s.rates);
      if (to.kinetic_sum < 0) behind.kinetic += front.kinetic;
      if (!follows) behind.time += front.time;
      front = behind;
      in_front.push_back(front);
      const std::size_t inverse = s.state.inverse.coefficients.size();
      const auto forward = s.rates.begin() + static_cast<std::ptrdiff_t>(inverse) + 2;
      r_.rates.forward.insert(r_.rates.forward.end(), forward, s.rates.end() - 2);
      r_.rates.exit_energy = {s.rates[inverse], s.rates[inverse + 1]};
      r_.rates.slices.push_back(std::move(rates));
    }
    for (const std::size_t n : slices_before_) r_.rates.kinetic.push_back(in_front[n].kinetic);
  }

  /// The operations of the reverse pass, in their order.
  void link() {
    const program& p = r_.forward;
    std::size_t end = p.operations.size();
    for (std::size_t n = slices_.size(); n-- > 0;) {
      const slice_work& s = slices_[n];
      for (std::size_t i = end; i-- > s.last_forward;) link_between(i);
      std::vector<std::size_t> maps;  // of the forward program
      for (std::size_t i = s.first_forward; i < s.last_forward; ++i) {
        if (p.operations[i].code != operation::refresh) maps.push_back(i);
      }
      link_slice(s, maps);
      end = s.first_forward;
    }
    for (std::size_t i = end; i-- > 0;) link_between(i);
    for (stop& at : r_.stops) {
      const auto undone = std::ranges::partition_point(
          r_.backward, [&](const reverse_operation& op) { return op.forward >= at.forward; });
      at.backward = static_cast<std::uint32_t>(undone - r_.backward.begin());
    }
  }

  /// An operation between slices: a record, or of the boundary of the bucket.
  void link_between(std::size_t i) {
    const operation& op = r_.forward.operations[i];
    const auto forward = static_cast<std::uint32_t>(i);
    if (op.code == operation::refresh || does_nothing(op.code)) return;
    const std::uint32_t energy = last_energy();
    reverse_operation to{op.code, op.coefficients, forward};
    if (op.code != operation::record) {  // its derivative is that of the map in front of it
      to.coefficients = static_cast<std::uint32_t>(r_.coefficients.size());
      const double* own = r_.forward.coefficients.data() + op.coefficients;
      r_.coefficients.insert(r_.coefficients.end(), own, own + coefficient_count(op.code));
      to.from_front = true;
      r_.no_way_back = "the boundary of the bucket";
    }
    r_.backward.push_back(to);
    // the energy columns follow pt, which a boundary may change, and their tangents those of pt, as a record may
    refresh(energy, i);
  }

  std::uint32_t last_energy() {
    if (energy_ == none) {
      energy_ = r_.coefficients.size();
      r_.coefficients.insert(r_.coefficients.end(), r_.exit_energy.begin(), r_.exit_energy.end());
      if (wants_rates()) {
        r_.rates.coefficients.insert(r_.rates.coefficients.end(), r_.rates.exit_energy.begin(),
                                     r_.rates.exit_energy.end());
      }
    }
    return static_cast<std::uint32_t>(energy_);
  }

  void refresh(std::uint32_t at, std::size_t forward) {
    r_.backward.push_back({operation::refresh, at, static_cast<std::uint32_t>(forward)});
  }

  void link_slice(const slice_work& s, const std::vector<std::size_t>& forward_maps) {
    const program& p = s.state.inverse;
    const auto shift = static_cast<std::uint32_t>(r_.coefficients.size());
    r_.coefficients.insert(r_.coefficients.end(), p.coefficients.begin(), p.coefficients.end());
    const std::size_t energy_at_exit = p.coefficients.size();  // in the tangents of the slice
    if (wants_rates()) {
      r_.rates.coefficients.insert(r_.rates.coefficients.end(), s.rates.begin(),
                                   s.rates.begin() + static_cast<std::ptrdiff_t>(energy_at_exit));
    }
    std::size_t energy_tangent = energy_at_exit;
    std::uint32_t energy = last_energy();
    std::size_t map = forward_maps.size();
    for (const operation& op : p.operations) {
      if (op.code == operation::refresh) {
        energy_tangent = op.coefficients;
        energy = op.coefficients + shift;
        energy_ = energy;
        refresh(energy, forward_maps[map]);
        continue;
      }
      const std::size_t undone = forward_maps[--map];
      if (op.code == operation::call) {
        r_.backward.push_back({reverse_operation::call, r_.forward.operations[undone].coefficients,
                               static_cast<std::uint32_t>(undone)});
        continue;
      }
      if (does_nothing(op.code)) continue;
      reverse_operation to{op.code, op.coefficients + shift, static_cast<std::uint32_t>(undone)};
      to.first_direction = static_cast<std::uint32_t>(r_.directions.size());
      const std::size_t count = coefficient_count(op.code);
      const bool pushed = op.code >= reverse_operation::pushed;
      if (pushed) {  // first with coefficients that stand still
        const auto at = static_cast<std::uint32_t>(r_.tangents.size());
        r_.directions.push_back({at, energy, false, unused_sum()});
        r_.tangents.resize(at + count + 2);
        if (wants_rates()) r_.rates.tangents.resize(at + count + 2);
        to.directions = 1;
      }
      for (const slice_work::direction& d : s.directions) {
        const auto moves = [](const values& v, std::size_t first, std::size_t n) {
          if (v.empty()) return false;
          const double* at = v.data() + first;
          return std::any_of(at, at + n, [](double t) { return t != 0; });
        };
        const auto in_either = [&](std::size_t first, std::size_t n) {
          return moves(d.tangents, first, n) || moves(d.rates, first, n);
        };
        const bool moves_energy = in_either(energy_tangent, 2);
        if (!in_either(op.coefficients, count) && !moves_energy) continue;
        r_.directions.push_back(
            {static_cast<std::uint32_t>(r_.tangents.size()), energy, moves_energy, d.sum});
        const auto append = [&](std::vector<double>& to_all, const values& v) {
          const double *own = v.data() + op.coefficients, *of_energy = v.data() + energy_tangent;
          to_all.insert(to_all.end(), own, own + count);
          to_all.insert(to_all.end(), of_energy, of_energy + 2);
        };
        append(r_.tangents, d.tangents);
        if (wants_rates()) append(r_.rates.tangents, d.rates);
        ++to.directions;
      }
      to.from_front = pushed || op.code == operation::radiate;
      const element& e = *line_.elements[s.element];
      if (op.code == operation::radiate) r_.no_way_back = describe(e) + ", which radiates";
      if (pushed) r_.no_way_back = describe(e) + ", whose map has no inverse";
      if (op.code == reverse_operation::matrix && p.coefficients[op.coefficients + 78] == 0) {
        r_.no_way_back = describe(e) + ", which has a singular matrix";
      }
      r_.backward.push_back(to);
    }
  }

  static constexpr std::size_t none = static_cast<std::size_t>(-1);

  const line& line_;
  const sensitivity_options& options_;
  bool clock_;
  std::unordered_map<const element*, std::vector<std::size_t>> knobs_{};
  sensitivity r_{};
  std::vector<slice_work> slices_{};
  std::map<std::tuple<const element*, int, int, std::size_t, double, double>, values> cache_{};
  std::vector<std::size_t> slices_before_{};  // each record
  std::size_t unused_ = none, energy_ = none, first_moved_ = none, first_accelerated_ = none;
  bool moves_reference_ = false;
};

}  // namespace

namespace {

/// Of length 0 it is thin, which is not the limit of a little length: it may be tracked in other maps then, or radiate.
bool is_thin(const element& e) {
  return length(e) == 0 && !std::visit(
                               []<class Body>(const Body&) {
                                 return std::is_same_v<Body, elements::drift> ||
                                        std::is_same_v<Body, elements::instrument> ||
                                        std::is_same_v<Body, elements::quadrupole> ||
                                        std::is_same_v<Body, elements::bend> ||
                                        std::is_same_v<Body, elements::solenoid> ||
                                        std::is_same_v<Body, elements::plasma_lens> ||
                                        std::is_same_v<Body, elements::constant_focusing>;
                               },
                               e.body);
}

}  // namespace

std::vector<knob> knobs_of(const std::shared_ptr<const element>& e,
                           std::optional<std::string_view> parameter) {
  std::vector<knob> all;
  const auto add = [&](const std::vector<parameter_info>& list) {
    for (const parameter_info& p : list) {
      if (parameter && p.name != *parameter) continue;
      if (p.is_integer || p.name.starts_with("aperture_")) continue;
      if (p.name == "length" && is_thin(*e)) continue;
      const value v = get(*e, p.name);
      if (std::holds_alternative<double>(v)) all.push_back({e, p.name, -1});
      if (const auto* entries = std::get_if<std::vector<double>>(&v)) {
        for (std::size_t i = 0; i < entries->size(); ++i) {
          all.push_back({e, p.name, static_cast<int>(i)});
        }
      }
    }
  };
  const bool fixed = std::visit(
      [](const auto& body) {
        using kind = std::decay_t<decltype(body)>;
        if constexpr (std::is_same_v<kind, elements::programmable>) {
          return body.tiles != nullptr || body.beam != nullptr;
        }
        return std::is_same_v<kind, elements::aperture> ||
               std::is_same_v<kind, elements::polygon_aperture>;
      },
      e->body);
  if (!fixed) add(find_kind(kind_of(*e)).parameters);
  add(common_parameters());
  element copy = *e;
  std::erase_if(all, [&](const knob& k) {
    const double* number = number_of(copy, k);
    if (number == nullptr) return true;
    // 0 may say that there is none of something, which is no limit of a little of it
    return *number == 0 && std::visit(
                               [&](const auto& body) {
                                 if constexpr (requires { body.zero_is_none(k.parameter); }) {
                                   return body.zero_is_none(k.parameter);
                                 }
                                 return false;
                               },
                               e->body);
  });
  return all;
}

void check(const knob& k) {
  element copy = *k.of;
  if (number_of(copy, k) != nullptr) return;
  const value v = get(copy, k.parameter);  // throws if there is no such parameter
  std::string why = "is not a number with a derivative";
  if (const auto* list = std::get_if<std::vector<double>>(&v)) {
    why = "is a list of " + std::to_string(list->size()) + " entries; take one, counted from 0";
  }
  throw std::invalid_argument(describe(copy) + ": " + name_of(k) + " " + why);
}

namespace {

/// sensitivity::collect for plain numbers and for those with rates.
template <class T>
struct collector {
  const sensitivity& of;
  std::vector<T> knobs;
  T kinetic{0.0}, time{0.0};

  /// A number of the sensitivity with its rate.
  static T joined(double value, const auto& rate) {
    if constexpr (std::is_same_v<T, double>) {
      return value;
    } else {
      T r(value);
      r.d[0] = rate();
      return r;
    }
  }

  void run(std::span<const T> contributions, std::span<const T> by_kinetic,
           std::span<const T> at_stops) {
    // records from the last to the first, each behind the slices of its element
    std::size_t record = by_kinetic.size();
    const auto take_records = [&](std::int32_t element) {
      while (record > 0 && of.forward.records[record - 1].element >= element) {
        kinetic += by_kinetic[--record];
      }
    };
    std::size_t next_stop = at_stops.size();
    const auto take_stops = [&](std::size_t slices_in_front) {
      while (next_stop > 0 && of.stops[next_stop - 1].slices >= slices_in_front) {
        kinetic += at_stops[--next_stop];
      }
    };
    using moved = slice_sensitivity::moved;
    for (std::size_t n = of.slices.size(); n-- > 0;) {
      const slice_sensitivity& s = of.slices[n];
      const auto rates = [&]() -> const sensitivity_rates::of_slice& { return of.rates.slices[n]; };
      const auto pulled = [&](const moved& m, const auto& rate) {
        return kinetic * joined(m.kinetic, [&] { return rate().kinetic; }) +
               time * joined(m.time, [&] { return rate().time; });
      };
      take_stops(n + 1);
      take_records(s.element);
      for (std::size_t k = 0; k < s.knobs.size(); ++k) {
        const slice_sensitivity::varied& v = s.knobs[k];
        knobs[v.knob] += contributions[v.sum] + pulled(v.behind, [&] { return rates().knobs[k]; });
      }
      const T in_front = pulled(s.by_kinetic, [&] { return rates().by_kinetic; });
      time = pulled(s.by_time, [&] { return rates().by_time; });
      kinetic = in_front;
      if (s.kinetic_sum >= 0) kinetic += contributions[static_cast<std::size_t>(s.kinetic_sum)];
      if (s.time_sum >= 0) time += contributions[static_cast<std::size_t>(s.time_sum)];
    }
    take_stops(0);
    take_records(-1);
  }
};

}  // namespace

sensitivity::result sensitivity::collect(std::span<const double> contributions,
                                         std::span<const double> by_kinetic,
                                         std::span<const double> at_stops,
                                         std::size_t knob_count) const {
  collector<double> c{*this, std::vector<double>(knob_count)};
  c.run(contributions, by_kinetic, at_stops);
  return {std::move(c.knobs), c.kinetic};
}

sensitivity::second_order_result sensitivity::collect(std::span<const rated> contributions,
                                                      std::span<const rated> by_kinetic,
                                                      std::size_t knob_count) const {
  collector<rated> c{*this, std::vector<rated>(knob_count, rated(0.0))};
  c.run(contributions, by_kinetic, {});
  return {std::move(c.knobs), c.kinetic};
}

geometry_slope geometry_of(const knob& k) {
  element changed = *k.of;
  double* number = number_of(changed, k);
  const double x = *number;
  const values slope = derivative_of(
      [&](double there) -> std::optional<values> {
        *number = there;
        if (length(changed) == 0 && length(*k.of) != 0) return {};
        return values{length(changed), curvature(changed)};
      },
      x, scale_of(*info_of(changed, k.parameter), x, false, 0), {});
  return {slope[0], slope[1]};
}

std::vector<std::uint8_t> varied_lengths(const line& l, std::span<const knob> knobs) {
  std::unordered_set<const element*> varied;
  for (const knob& k : knobs) {
    if (k.parameter == "length") varied.insert(k.of.get());
  }
  std::vector<std::uint8_t> flags;
  for (const auto& e : l.elements) flags.push_back(varied.contains(e.get()) ? 1 : 0);
  return flags;
}

double derivative_along(const knob& k, const line& l,
                        const std::function<double(const line&)>& function) {
  const auto changed = std::make_shared<element>(*k.of);
  double* number = number_of(*changed, k);
  const double x = *number;
  line other = l;
  std::ranges::replace(other.elements, k.of, changed,
                       [](const auto& e) { return std::shared_ptr<const element>(e); });
  const auto at = [&](double there) {
    *number = there;
    return function(other);
  };
  // with a step at which a function that is good to 1e-12 gives 1e-9
  const parameter_info& info = *info_of(*changed, k.parameter);
  const double h = std::exp2(std::floor(std::log2(scale_of(info, x, false, 0) / 128)));
  // lengths do not change their sign: the function may be one of an orbit
  const double minimum =
      k.parameter == "length" && x >= 0 ? std::max(info.minimum, 0.0) : info.minimum;
  const double below = x - minimum, above = info.maximum - x;
  if (std::min(below, above) > 4 * h) {  // order 8
    const auto& weight = central_weights[0][0];
    double slope = 0;
    for (int j = 0; j < 4; ++j) slope += weight[j] * (at(x + (j + 1) * h) - at(x - (j + 1) * h));
    return slope / h;
  }
  // beside a limit, away from it: order 4
  constexpr double weight[] = {-25.0 / 12, 4, -3, 4.0 / 3, -1.0 / 4};
  const double step = above > below ? h : -h;
  double slope = 0;
  for (int j = 0; j < 5; ++j) slope += weight[j] * at(x + j * step);
  return slope / step;
}

sensitivity differentiate(const line& l, const beam::reference& start,
                          const sensitivity_options& options) {
  return differentiator(l, start, options).result();
}

forward_tangents differentiate_forward(const line& l, const beam::reference& start,
                                       const sensitivity_options& options, std::ptrdiff_t which) {
  const knob* k = which >= 0 ? &options.knobs[static_cast<std::size_t>(which)] : nullptr;
  std::size_t coefficients = 0;
  groups together;
  auto values_of = [&](double x) -> std::optional<values> {
    reference ref = start;
    if (!k) ref.kinetic = x;
    values v, kinetic;
    values entrance{ref.inverse_beta(), ref.inverse_beta_gamma_squared()};
    if (options.record_start) kinetic.push_back(ref.kinetic);
    try {
      for (std::size_t i = 0; i < l.elements.size(); ++i) {
        const element* original = l.elements[i].get();
        element e = *original;
        if (k && k->of.get() == original) *number_of(e, *k) = x;
        together.displacement = std::max(together.displacement, displacement_of(e));
        const int count = slice_count(*original);
        slice_request piece{0, count};
        if (options.radiation) piece.radiation = &*options.radiation;
        for (const knob& any : options.knobs) {
          if (any.of.get() == original) prepare(piece, any);
        }
        for (piece.index = 0; piece.index < count; ++piece.index) {
          const program p = compile_slice(e, piece, ref);
          v.insert(v.end(), p.coefficients.begin(), p.coefficients.end());
          if (coefficients == 0) append_groups(p, together);
        }
        const bool flagged = !options.recorded.empty() && options.recorded[i] != 0;
        if (flagged || (options.record_end && i + 1 == l.elements.size())) {
          kinetic.push_back(ref.kinetic);
        }
      }
    } catch (const std::exception&) {
      return {};
    }
    if (l.elements.empty() && options.record_end) kinetic.push_back(ref.kinetic);
    if (coefficients == 0) coefficients = v.size();
    if (v.size() != coefficients) return {};
    v.insert(v.end(), entrance.begin(), entrance.end());
    v.insert(v.end(), kinetic.begin(), kinetic.end());
    return v;
  };
  double x = start.kinetic, scale = start.kinetic;
  if (k) {
    check(*k);
    element copy = *k->of;
    x = *number_of(copy, *k);
    const double time = survey(l, start).back().t;
    scale = scale_of(*info_of(copy, k->parameter), x, follows_clock(l), time);
  }
  values_of(x);  // sets the number of coefficients
  values d;
  try {
    d = derivative_of(values_of, x, scale, together);
  } catch (const std::domain_error& why) {
    throw std::invalid_argument(
        (k ? describe(*k->of) : "the line") + " cannot be differentiated with respect to " +
        (k ? name_of(*k) : "the energy of the reference") + ": " + why.what());
  }
  const auto at = d.begin() + static_cast<std::ptrdiff_t>(coefficients);
  return {values(d.begin(), at), {at[0], at[1]}, values(at + 2, d.end())};
}

namespace {

/// The variable of a piece: its value, and the length on which things vary with it.
struct piece_variable {
  double value, scale;

  piece_variable(const varied_piece& p, element& copy) {
    using enum varied_piece::variable;
    if (p.by == knob) {
      value = *number_of(copy, *p.turned);
      scale = scale_of(*info_of(copy, p.turned->parameter), value, p.clock, p.front.t);
    } else if (p.by == kinetic) {
      value = scale = p.front.kinetic;
    } else {
      value = p.front.t;
      scale = 0.1;
    }
  }
};

/// The reference in front of a piece and its element, with the variable at x.
reference turned_to(const varied_piece& p, double x, element& e) {
  using enum varied_piece::variable;
  reference ref = p.front;
  // without a clock the time of flight of the piece alone, for the sake of rounding
  if (!p.clock) ref.t = 0;
  if (p.by == knob) *number_of(e, *p.turned) = x;
  if (p.by == kinetic) ref.kinetic = x;
  if (p.by == time) ref.t = x;
  return ref;
}

}  // namespace

piece_tangent differentiate(const varied_piece& p, const std::array<double, 6>& centroid) {
  element e = p.of;
  const piece_variable v(p, e);
  constexpr std::size_t orbit = 0, matrix = 6, behind = 42;
  groups together;
  together.offsets = {orbit};
  const auto at = [&](double x) -> std::optional<values> {
    reference ref = turned_to(p, x, e);
    together.displacement = std::max(together.displacement, displacement_of(e));
    try {
      const orbit_map m = derivative(e, p.index, p.count, ref, centroid);
      values r(behind + 2);
      std::copy(m.orbit.begin(), m.orbit.end(), r.begin() + orbit);
      std::copy(m.matrix.begin(), m.matrix.end(), r.begin() + matrix);
      r[behind] = ref.kinetic;
      r[behind + 1] = ref.t;
      return r;
    } catch (const std::exception&) {
      return {};
    }
  };
  for (std::size_t i = 0; i < behind + 2; ++i) {
    together.of.push_back(i < matrix ? orbit : i < behind ? matrix : i);
  }
  try {
    const values d = derivative_of(at, v.value, v.scale, together);
    piece_tangent r;
    std::copy_n(d.begin() + orbit, 6, r.orbit.begin());
    std::copy_n(d.begin() + matrix, 36, r.matrix.begin());
    r.kinetic = d[behind];
    r.time = d[behind + 1];
    return r;
  } catch (const std::domain_error& why) {
    throw std::invalid_argument(describe(p.of) + " cannot be differentiated with respect to " +
                                (p.turned ? name_of(*p.turned) : "the reference particle") + " = " +
                                std::to_string(v.value) + ": " + why.what());
  }
}

piece_probe::piece_probe(const varied_piece& p) : beside_(p.of) {
  const piece_variable v(p, beside_);
  at_ = v.value + 0.0173 * v.scale;
}

bool piece_probe::read(const varied_piece& p, std::vector<double>& signature) {
  slice_request which{p.index, p.count};
  if (p.by == varied_piece::variable::knob) prepare(which, *p.turned);
  try {
    reference ref = turned_to(p, at_, beside_);
    program made = compile_slice(beside_, which, ref);
    signature = std::move(made.coefficients);
    for (const operation& op : made.operations) signature.push_back(op.code);
    signature.push_back(ref.kinetic);
    signature.push_back(ref.t);
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

}  // namespace betatron::lattice
