#include "collective/wake.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <complex>
#include <deque>
#include <iomanip>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <utility>

#include "beam/text.h"
#include "collective/energy_kick.h"
#include "collective/line_pull.h"
#include "numerics/constants.h"
#include "numerics/faddeeva.h"
#include "numerics/reduction.h"

namespace betatron::collective {

namespace {

using numerics::constants::pi;
using numerics::constants::speed_of_light;

constexpr double wave_resistance = 1 / (numerics::constants::vacuum_permittivity * speed_of_light);

constexpr std::array<std::string_view, 5> kind_names = {"longitudinal", "dipole_x", "dipole_y",
                                                        "quadrupole_x", "quadrupole_y"};

void require(bool good, const std::string& what, double value, const std::string& unit,
             const std::string& allowed) {
  if (good && std::isfinite(value)) return;
  throw std::invalid_argument(what + " = " + beam::number_text(value) + unit +
                              " is not allowed; allowed: " + allowed);
}

/// erfc(z) exp(z^2) for Re z >= 0.
std::array<double, 2> erfcx(double re, double im) {
  const auto w = numerics::faddeeva(-im, re);  // of i z
  return {w.re, w.im};
}

/// int_0^inf x^2 exp(-x^2 xi)/(x^6 + 8) dx and int_0^inf exp(-x^2 xi)/(x^6 + 8) dx, by partial fractions: with
/// b = sqrt(2) e^(i pi k/3), k = 0, +-1, -(pi/6) sum b^-3 erfcx(b sqrt(xi)) and (pi/6) sum b^-5 erfcx(b sqrt(xi)).
std::array<double, 2> wall_integrals(double xi) {
  const double root = std::sqrt(2 * xi);
  const auto straight = erfcx(root, 0), turned = erfcx(0.5 * root, 0.5 * std::sqrt(3.0) * root);
  const double unit = pi / (12 * std::sqrt(2.0));
  // b^-5 of k = 1 is e^(-5 i pi/3)/(4 sqrt 2), that is (1/2 + i sqrt(3)/2)/(4 sqrt 2)
  return {unit * (2 * turned[0] - straight[0]),
          0.5 * unit * (straight[0] + turned[0] - std::sqrt(3.0) * turned[1])};
}

/// The bracket of Bane and Sands, and its integral from 0 to xi.
double wall_wake(double xi) {
  return std::exp(-xi) * std::cos(std::sqrt(3.0) * xi) / 3 -
         std::sqrt(2.0) / pi * wall_integrals(xi)[0];
}
double wall_wake_integral(double xi) {
  const double root3 = std::sqrt(3.0);
  const double wave =
      (1 + std::exp(-xi) * (root3 * std::sin(root3 * xi) - std::cos(root3 * xi))) / 4;
  return wave / 3 - std::sqrt(2.0) / pi * (wall_integrals(0)[1] - wall_integrals(xi)[1]);
}

/// The wall of a conductivity with relaxation: poles and cut of the impedance, see resistive_wall in the header.
class relaxing_wall {
 public:
  explicit relaxing_wall(double relaxation) {
    // the pole, followed from that of direct current
    for (double g = std::min(relaxation, 0.1);; g = std::min(2 * g, relaxation)) {
      for (int i = 0; i < 12; ++i) {
        const std::complex<double> p = pole_, square = p * p;
        pole_ -= (g * square * square + square * p - 8.0) / (square * (4 * g * p + 3.0));
      }
      if (g == relaxation) break;
    }
    residue_ = 2.0 * (1.0 + relaxation * pole_) / (3.0 + 4 * relaxation * pole_);
    // The cut, x = u/(1 + relaxation u), u = e^v: the integrand falls as exp(3 v/2) to the left, where (xi up to 1e8
    // counts) exp(v/2) is left of its integral, and exponentially to the right of ln(1/(8 relaxation^4)). It is regular
    // for |Im v| < pi/3 at least: the trapezoidal rule is good to exp(-2 pi^2/(3 step)).
    constexpr double step = 0.2, first = -55, behind = 28;
    const double last = behind + std::max(0.0, -std::log(8 * std::pow(relaxation, 4)));
    for (double v = first; v < last; v += step) {
      const double u = std::exp(v), slow = 1 + relaxation * u, square = slow * slow;
      const double weight = step * 2 * std::sqrt(2.0) / pi * u * std::sqrt(u) /
                            (square * slow * (8 + (u / square) * (u / square) * u));
      if (weight > 0) cut_.push_back({u / slow, weight});
    }
  }

  std::complex<double> pole() const { return pole_; }

  /// W over Z0 c/(pi a^2).
  double at(double xi) const {
    double sum = 2 * std::real(residue_ * std::exp(pole_ * xi));
    for (const auto& [x, weight] : cut_) sum -= weight * std::exp(-x * xi);
    return sum;
  }
  double integral(double xi) const {
    // exp(z) - 1, without cancellation where z is small
    const std::complex<double> z = pole_ * xi, half = z / 2.0;
    const std::complex<double> wave =
        std::abs(z) < 1 ? 2.0 * std::sinh(half) * std::exp(half) : std::exp(z) - 1.0;
    double sum = 2 * std::real(residue_ / pole_ * wave);
    for (const auto& [x, weight] : cut_) sum += weight / x * std::expm1(-x * xi);
    return sum;
  }

 private:
  struct node {
    double x, weight;
  };
  std::complex<double> pole_{-1, std::sqrt(3.0)}, residue_{};
  std::vector<node> cut_{};
};

/// Equal pieces of [a, b], at most so long.
void cut(double a, double b, double longest, std::vector<double>& points) {
  const double n = std::ceil((b - a) / longest);
  for (double k = 1; k < n; ++k) points.push_back(a + (b - a) * (k / n));
}

}  // namespace

wake_kind wake_kind_named(std::string_view name) {
  for (std::size_t i = 0; i < kind_names.size(); ++i) {
    if (name == kind_names[i]) return static_cast<wake_kind>(i);
  }
  throw std::invalid_argument("wake '" + std::string(name) +
                              "' is not known; known: longitudinal, dipole_x, dipole_y, "
                              "quadrupole_x, quadrupole_y");
}

std::array<double, 2> oscillator::basis(double t) const {
  if (square > 0) {
    const double w = std::sqrt(square), damped = std::exp(-alpha * t);
    return {damped * std::cos(w * t), damped * std::sin(w * t) / w};
  }
  if (square == 0) return {std::exp(-alpha * t), t * std::exp(-alpha * t)};
  // alpha - k without cancellation: (alpha^2 - k^2)/(alpha + k), and alpha^2 - k^2 = alpha^2 + square
  const double k = std::sqrt(-square);
  const double slow = std::exp(-(alpha * alpha + square) / (alpha + k) * t);
  const double ratio = std::exp(-2 * k * t);
  return {0.5 * slow * (1 + ratio), -0.5 * slow * std::expm1(-2 * k * t) / k};
}

std::array<double, 2> oscillator::later(const std::array<double, 2>& ab, double t) const {
  const auto f = basis(t);
  return {ab[0] * f[0] + ab[1] * f[1], ab[1] * f[0] - square * ab[0] * f[1]};
}

wake_term resonator(wake_kind kind, double shunt_impedance, double quality, double frequency) {
  const bool longitudinal = kind == wake_kind::longitudinal;
  require(true, "Resonator: shunt_impedance", shunt_impedance, longitudinal ? " Ohm" : " Ohm/m",
          "finite numbers");
  require(quality > 0, "Resonator: quality", quality, "", "> 0");
  require(frequency > 0, "Resonator: frequency", frequency, " Hz", "> 0");
  const double omega = 2 * pi * frequency, wave_number = omega / speed_of_light;
  wake_term term;
  term.kind = kind;
  term.resonant = true;
  oscillator& o = term.oscillator;
  o.alpha = wave_number / (2 * quality);
  o.square = wave_number * wave_number * (1 - 0.5 / quality) * (1 + 0.5 / quality);
  if (longitudinal) {
    const double height = omega / quality * shunt_impedance;
    term.ab = {height, -height * o.alpha};
  } else {
    term.ab = {0, shunt_impedance * omega / quality * wave_number};
  }
  term.at = [o, ab = term.ab](double t) {
    const auto f = o.basis(t);
    return ab[0] * f[0] + ab[1] * f[1];
  };
  // half a radian or half a damping length, whichever is shorter
  const double longest = 0.5 / std::max(wave_number, 2 * o.alpha);
  const double gone = 40 / o.alpha;
  term.breaks = [longest, gone](double a, double b, std::vector<double>& points) {
    if (a < gone) cut(a, std::min(b, gone), longest, points);
  };
  return term;
}

std::vector<wake_term> resistive_wall(double radius, double conductivity, bool flat,
                                      double relaxation_time) {
  require(radius > 0, "ResistiveWall: radius", radius, " m", "> 0");
  require(conductivity > 0, "ResistiveWall: conductivity", conductivity, " 1/(Ohm m)", "> 0");
  require(relaxation_time >= 0 && relaxation_time <= 1e-9, "ResistiveWall: relaxation_time",
          relaxation_time, " s", "0 to 1e-9");
  const double s0 = std::cbrt(2 * radius * radius / (wave_resistance * conductivity));
  const double height = wave_resistance * speed_of_light / (pi * radius * radius);
  // below, the wall is that of direct current to rounding
  const double relaxation = speed_of_light * relaxation_time / s0;
  const auto wall =
      relaxation < 1e-12 ? nullptr : std::make_shared<const relaxing_wall>(relaxation);
  const std::complex<double> pole = wall ? wall->pole() : std::complex<double>(-1, std::sqrt(3.0));
  const double gone = 40 * s0 / -pole.real();  // the oscillation is below rounding
  const double piece = 2 * s0 / std::abs(pole);
  const auto breaks = [gone, piece](double a, double b, std::vector<double>& points) {
    if (a < gone) cut(a, std::min(b, gone), piece, points);
  };
  const auto term = [&](wake_kind kind, double factor) {
    wake_term w;
    w.kind = kind;
    w.per_metre = true;
    w.breaks = breaks;
    if (kind == wake_kind::longitudinal) {
      w.at = [s0, wall, h = factor * height](double t) {
        return h * (wall ? wall->at(t / s0) : 4 * wall_wake(t / s0));
      };
    } else {
      w.at = [s0, wall, h = factor * 2 / (radius * radius) * height * s0](double t) {
        return h * (wall ? wall->integral(t / s0) : 4 * wall_wake_integral(t / s0));
      };
    }
    return w;
  };
  const double plates = pi * pi / 24;
  if (!flat) {
    return {term(wake_kind::longitudinal, 1), term(wake_kind::dipole_x, 1),
            term(wake_kind::dipole_y, 1)};
  }
  return {term(wake_kind::longitudinal, 1), term(wake_kind::dipole_x, plates),
          term(wake_kind::dipole_y, 2 * plates), term(wake_kind::quadrupole_x, -plates),
          term(wake_kind::quadrupole_y, plates)};
}

std::vector<wake_term> periodic_structure(double a, double gap, double period) {
  require(a > 0, "StructureWake: iris_radius", a, " m", "> 0");
  require(period > 0, "StructureWake: period", period, " m", "> 0");
  require(gap > 0 && gap <= period, "StructureWake: gap", gap, " m",
          "> 0 and at most the period, " + beam::number_text(period) + " m");
  const double s1 = 0.41 * std::pow(a, 1.8) * std::pow(gap, 1.6) / std::pow(period, 2.4);
  const double s2 = 0.169 * std::pow(a, 1.79) * std::pow(gap, 0.38) / std::pow(period, 1.17);
  const double height = wave_resistance * speed_of_light / (pi * a * a);
  const auto breaks_of = [](double scale) {
    return [scale](double from, double to, std::vector<double>& points) {
      // equal steps of sqrt(t)
      const double low = std::sqrt(from), high = std::sqrt(to);
      const std::size_t first = points.size();
      cut(low, high, std::sqrt(scale), points);
      for (std::size_t i = first; i < points.size(); ++i) points[i] *= points[i];
    };
  };
  wake_term longitudinal;
  longitudinal.per_metre = true;
  longitudinal.fit = "StructureWake";
  longitudinal.reach = 0.15 * period;
  longitudinal.at = [height, s1](double t) { return height * std::exp(-std::sqrt(t / s1)); };
  longitudinal.breaks = breaks_of(s1);
  wake_term dipole = longitudinal;
  dipole.kind = wake_kind::dipole_x;
  dipole.at = [h = 4 * height * s2 / (a * a), s2](double t) {
    const double r = std::sqrt(t / s2);
    // 1 - (1 + r) exp(-r) without cancellation
    return h * (-std::expm1(-r) - r * std::exp(-r));
  };
  dipole.breaks = breaks_of(s2);
  wake_term vertical = dipole;
  vertical.kind = wake_kind::dipole_y;
  return {longitudinal, dipole, vertical};
}

wake_term wake_table(wake_kind kind, std::vector<double> t, std::vector<double> values,
                     bool per_metre) {
  const std::string name(kind_names[static_cast<std::size_t>(kind)]);
  if (t.size() < 2 || t.size() != values.size()) {
    throw std::invalid_argument("WakeTable: " + name + " has " + std::to_string(values.size()) +
                                " values at " + std::to_string(t.size()) +
                                " distances; allowed: as many of both, at least 2");
  }
  for (std::size_t i = 0; i < t.size(); ++i) {
    const std::string entry = "WakeTable: t[" + std::to_string(i) + "]";
    if (i == 0) {
      require(t[0] == 0, entry, t[0], " m", "0 (a wake begins behind its source)");
    } else {
      require(t[i] > t[i - 1], entry, t[i], " m", "> " + beam::number_text(t[i - 1]) + " m");
    }
    require(true, "WakeTable: " + name + "[" + std::to_string(i) + "]", values[i], "",
            "finite numbers");
  }
  wake_term w;
  w.kind = kind;
  w.per_metre = per_metre;
  w.breaks = [t](double a, double b, std::vector<double>& points) {
    const auto first = std::upper_bound(t.begin(), t.end(), a);
    const auto last = std::lower_bound(first, t.end(), b);
    points.insert(points.end(), first, last);
  };
  w.at = [t = std::move(t), values = std::move(values)](double s) {
    if (s < 0 || s > t.back()) return 0.0;
    const auto next = std::upper_bound(t.begin() + 1, t.end() - 1, s);
    const auto i = static_cast<std::size_t>(next - t.begin());
    const double f = (s - t[i - 1]) / (t[i] - t[i - 1]);
    return values[i - 1] + f * (values[i] - values[i - 1]);
  };
  return w;
}

namespace {

/// int W df and int f W df over the cell from j step to (j + 1) step, f = t/step - j: Gauss-Legendre with 8 points in
/// v = sqrt(t), in which all wakes here are smooth, piece by piece. `points`: memory.
std::array<double, 2> cell_integrals(const wake_term& term, double step, std::size_t j,
                                     std::vector<double>& points) {
  static constexpr std::array<double, 4> x = {0.183434642495649805, 0.525532409916328986,
                                              0.796666477413626740, 0.960289856497536232};
  static constexpr std::array<double, 4> w = {0.362683783378361983, 0.313706645877887287,
                                              0.222381034453374471, 0.101228536290376259};
  const double a = static_cast<double>(j) * step, b = static_cast<double>(j + 1) * step;
  points.assign(1, a);
  if (term.breaks) term.breaks(a, b, points);
  points.push_back(b);
  double all = 0, outer = 0;
  for (std::size_t k = 0; k + 1 < points.size(); ++k) {
    const double low = std::sqrt(points[k]), high = std::sqrt(points[k + 1]);
    const double half = 0.5 * (high - low), middle = 0.5 * (high + low);
    for (std::size_t g = 0; g < 4; ++g) {
      for (const double side : {-1.0, 1.0}) {
        const double v = middle + side * half * x[g], t = v * v;
        const double part = w[g] * half * 2 * v * term.at(t) / step;
        all += part;
        outer += part * ((t - a) / step);
      }
    }
  }
  return {all, outer};
}

}  // namespace

std::vector<double> wake_kernel(const wake_term& term, double step, std::size_t n) {
  std::vector<double> kernel(n);
  std::vector<double> points;
  for (std::size_t j = 0; j < n; ++j) {
    const auto [all, outer] = cell_integrals(term, step, j, points);
    kernel[j] += all - outer;
    if (j + 1 < n) kernel[j + 1] += outer;
  }
  return kernel;
}

std::vector<double> wake_kernel_slope(const wake_term& term, double step,
                                      std::span<const double> kernel) {
  std::vector<double> slope(kernel.size());
  std::vector<double> points;
  double before = 0;
  for (std::size_t j = 0; j < kernel.size(); ++j) {
    const auto [all, outer] = cell_integrals(term, step, j, points);
    const double here = static_cast<double>(j) * all + outer;
    slope[j] = (here - before - kernel[j]) / step;
    before = here;
  }
  return slope;
}

double loss_factor(const wake_term& term, const line_density& d) {
  const std::size_t n = d.charge.size();
  const auto half = wake_kernel(term, d.grid.step, n);
  std::vector<double> kernel(2 * n - 1);
  std::copy(half.begin(), half.end(), kernel.begin() + static_cast<std::ptrdiff_t>(n - 1));
  const double q = d.total();
  return numerics::dot(d.charge, convolve(d.charge, kernel)) / (q * q);
}

namespace {

/// The charges that passed a place in one turn, at absolute c times.
struct passage {
  std::vector<double> when, charge, x_charge, y_charge;
};

/// What one place remembers.
struct place_memory {
  std::deque<passage> passages;
  std::vector<std::array<double, 2>> states;  // of the resonant terms: (a, b) ...
  double when = 0;                            // ... as seen from this absolute c time
  bool used = false;
};

/// What a run leaves.
struct run_state {
  std::map<std::pair<std::size_t, double>, place_memory> memory;
  double longest = 0;  // beam that a fit was used for beyond its reach [m]
  std::string remark;  // and where that was
};

/// Whether earlier turns are seen by it: a fit to short distances says nothing of them.
bool is_remembered(const wake_term& w) { return std::isinf(w.reach); }

const std::vector<double>& source_of(const wake_term& term, const line_density& d) {
  if (term.kind == wake_kind::dipole_x) return d.x_charge;
  if (term.kind == wake_kind::dipole_y) return d.y_charge;
  return d.charge;
}
const std::vector<double>& source_of(const wake_term& term, const passage& p) {
  if (term.kind == wake_kind::dipole_x) return p.x_charge;
  if (term.kind == wake_kind::dipole_y) return p.y_charge;
  return p.charge;
}

/// Adds what earlier passages left to the potential at the nodes; `clock` is the c time at t = 0.
void add_memory(const wake_options& o, const place_memory& m, const line_grid& g, double clock,
                std::size_t term, double factor, std::vector<double>& v) {
  const wake_term& w = o.terms[term];
  if (!is_remembered(w)) return;
  if (w.resonant) {
    if (!m.used) return;
    for (std::size_t i = 0; i < g.nodes; ++i) {
      const double since = clock + g.node(i) - m.when;
      if (since < 0) continue;  // overlapping turns: a node in front of the end of the last passage
      const auto f = w.oscillator.basis(since);
      v[i] += factor * (m.states[term][0] * f[0] + m.states[term][1] * f[1]);
    }
    return;
  }
  for (const passage& p : m.passages) {
    const auto& q = source_of(w, p);
    for (std::size_t i = 0; i < g.nodes; ++i) {
      double sum = 0;
      for (std::size_t j = 0; j < q.size(); ++j) {
        const double since = clock + g.node(i) - p.when[j];
        if (since > 0) sum += q[j] * w.at(since);
      }
      v[i] += factor * sum;
    }
  }
}

/// Keeps what this passage leaves.
void remember(const wake_options& o, place_memory& m, const line_density& d, double clock) {
  const double end = clock + d.grid.node(d.grid.nodes - 1);
  m.states.resize(o.terms.size());
  bool others = false;
  for (std::size_t k = 0; k < o.terms.size(); ++k) {
    const wake_term& w = o.terms[k];
    if (!w.resonant) {
      others = others || is_remembered(w);
      continue;
    }
    std::array<double, 2> ab{};
    if (m.used) ab = w.oscillator.later(m.states[k], std::max(0.0, end - m.when));
    const auto& q = source_of(w, d);
    for (std::size_t j = 0; j < q.size(); ++j) {
      if (q[j] == 0) continue;
      const auto left = w.oscillator.later(w.ab, end - clock - d.grid.node(j));
      ab[0] += q[j] * left[0];
      ab[1] += q[j] * left[1];
    }
    m.states[k] = ab;
  }
  m.when = end;
  m.used = true;
  if (!others) return;
  passage p;
  for (std::size_t j = 0; j < d.charge.size(); ++j) {
    if (d.charge[j] == 0) continue;
    p.when.push_back(clock + d.grid.node(j));
    p.charge.push_back(d.charge[j]);
    if (d.x_charge.empty()) continue;
    p.x_charge.push_back(d.x_charge[j]);
    p.y_charge.push_back(d.y_charge[j]);
  }
  m.passages.push_back(std::move(p));
  while (m.passages.size() > static_cast<std::size_t>(o.memory)) m.passages.pop_front();
}

}  // namespace

namespace {

/// Notes where the beam is longer than a fit reaches, if it is longer, by what one can read, than anywhere before.
void watch_reach(const wake_options& o, const line_grid& g, const tracking::kick_place& at,
                 run_state& run) {
  const double extent = g.is_point ? 0 : g.step * static_cast<double>(o.density.bins - 1);
  if (extent <= 1.001 * run.longest) return;
  const auto over = std::ranges::find_if(
      o.terms, [&](const wake_term& w) { return extent > w.reach * (1 + 1e-9); });
  if (over == o.terms.end()) return;
  run.longest = extent;
  std::ostringstream remark;
  remark << std::setprecision(3) << o.name << ": in "
         << lattice::describe(*at.line->elements[at.element]) << " the beam was " << extent
         << " m long (from its first to its last particle); " << over->fit
         << " is a fit for distances up to " << over->reach << " m";
  run.remark = remark.str();
}

/// How much of the wake a kick stands for.
double factor_of(const wake_options& o, const wake_term& w, const tracking::kick_place& at) {
  const double part = std::copysign(at.to - at.from, at.length);
  if (!w.per_metre) return part;
  return o.length > 0 ? o.length * part : at.length;
}

/// Node values of the kicks, in the order of wake_kind; empty where there is none.
std::array<std::vector<double>, 5> potential_of(const wake_options& o, const line_density& d,
                                                const tracking::kick_place& at,
                                                const place_memory* kept) {
  const std::size_t n = d.grid.nodes;
  const double unit = std::fabs(at.ref.particle.charge) / at.ref.momentum();
  std::array<std::vector<double>, 5> potential;
  std::vector<double> kernel(2 * n - 1);
  for (std::size_t k = 0; k < o.terms.size(); ++k) {
    const wake_term& w = o.terms[k];
    const double factor = factor_of(o, w, at);
    auto& v = potential[static_cast<std::size_t>(w.kind)];
    v.resize(n);
    if (factor == 0) continue;
    const auto half = wake_kernel(w, d.grid.step, n);
    std::copy(half.begin(), half.end(), kernel.begin() + static_cast<std::ptrdiff_t>(n - 1));
    const auto own = convolve(source_of(w, d), kernel);
    for (std::size_t i = 0; i < n; ++i) v[i] += factor * own[i];
    if (kept) add_memory(o, *kept, d.grid, at.ref.t, k, factor, v);
  }
  for (auto& v : potential) {
    for (double& value : v) value *= unit;
  }
  return potential;
}

/// The adjoint: v = factor unit K q, so that q' = factor unit K^T v', and the step acts through K.
tracking::kick_slopes pull(const wake_options& o, bool dipoles, beam::bunch& b,
                           const tracking::covector& lambda, const tracking::kick_place& at) {
  tracking::kick_slopes slopes;
  if (b.size() == 0) return slopes;
  const line_grid grid = grid_over(b, o.density, o.name, at.threads);
  const line_density d = deposit(b, grid, o.density, dipoles, at.threads);
  auto potential = potential_of(o, d, at, nullptr);
  const line_pull adjoint(b, lambda, grid, o.density, at.threads);
  const std::size_t n = grid.nodes;
  const double unit = std::fabs(at.ref.particle.charge) / at.ref.momentum();

  constexpr std::array<std::size_t, 5> column = {5, 1, 3, 1, 3};
  std::array<std::vector<double>, 5> by_potential;
  double work = 0;  // the sum of lambda times the kick
  for (std::size_t k = 0; k < 5; ++k) {
    if (potential[k].empty()) continue;
    by_potential[k] = adjoint.by_nodes(column[k], k >= 3);
    work += numerics::dot(by_potential[k], potential[k]);
  }
  line_pull::sources by{std::vector<double>(n), {}, {}};
  if (dipoles) by.x_charge = by.y_charge = std::vector<double>(n);
  double by_step = 0;
  std::vector<double> kernel(2 * n - 1), turned(2 * n - 1);
  for (const wake_term& w : o.terms) {
    const double factor = factor_of(o, w, at) * unit;
    const auto& v = by_potential[static_cast<std::size_t>(w.kind)];
    const auto half = wake_kernel(w, grid.step, n);
    std::copy(half.begin(), half.end(), kernel.begin() + static_cast<std::ptrdiff_t>(n - 1));
    if (w.per_metre && o.length == 0) {
      slopes.length += unit * numerics::dot(v, convolve(source_of(w, d), kernel));
    }
    if (factor == 0) continue;
    std::reverse_copy(kernel.begin(), kernel.end(), turned.begin());
    auto& to = w.kind == wake_kind::dipole_x   ? by.x_charge
               : w.kind == wake_kind::dipole_y ? by.y_charge
                                               : by.charge;
    const auto back = convolve(v, turned);
    for (std::size_t i = 0; i < n; ++i) to[i] += factor * back[i];
    const auto slope = wake_kernel_slope(w, grid.step, half);
    std::copy(slope.begin(), slope.end(), kernel.begin() + static_cast<std::ptrdiff_t>(n - 1));
    by_step += factor * numerics::dot(v, convolve(source_of(w, d), kernel));
  }
  slopes.charge = work;
  slopes.kinetic = -work * at.ref.gamma() * at.ref.inverse_beta_gamma_squared();
  auto& [longitudinal, dipole_x, dipole_y, quadrupole_x, quadrupole_y] = potential;
  adjoint.finish({{{std::move(dipole_x), std::move(quadrupole_x)},
                   {std::move(dipole_y), std::move(quadrupole_y)},
                   {std::move(longitudinal), {}}}},
                 std::move(by), by_step);
  return slopes;
}

}  // namespace

tracking::effect wake(const wake_options& o) {
  if (o.terms.empty()) throw std::invalid_argument(o.name + " has no wake functions");
  check(o.density, o.name);
  require(o.length >= 0, o.name + ": length", o.length, " m", ">= 0");
  if (o.memory < 0) {
    throw std::invalid_argument(o.name + ": memory = " + std::to_string(o.memory) +
                                " turns is not allowed; allowed: >= 0");
  }
  if (o.memory > 0 && std::ranges::none_of(o.terms, is_remembered)) {
    throw std::invalid_argument(o.name + ": memory = " + std::to_string(o.memory) +
                                " turns is not allowed; allowed: 0, as " + o.terms[0].fit +
                                " is a fit to short distances and says nothing of the next turn");
  }
  bool dipoles = false;
  for (const wake_term& w : o.terms) {
    dipoles = dipoles || w.kind == wake_kind::dipole_x || w.kind == wake_kind::dipole_y;
    if (!w.per_metre && o.at.empty()) {
      throw std::invalid_argument(
          o.name +
          ": a wake in V/C that is not per metre belongs to single elements; say which, "
          "with `at`");
    }
  }
  const auto run = std::make_shared<run_state>();
  tracking::effect e;
  e.name = o.name;
  e.order = o.order;
  e.spacing = o.spacing;
  e.at = o.at;
  e.reversible = o.memory == 0;
  e.remark = [run] { return run->remark; };
  e.begin = [o, run](const lattice::line& l, const beam::bunch&, lattice::direction) {
    const bool per_metre = std::ranges::any_of(o.terms, &wake_term::per_metre);
    for (std::size_t i = 0; per_metre && o.length == 0 && i < o.at.size(); ++i) {
      if (o.at[i] == 0 || lattice::length(*l.elements[i]) != 0) continue;
      throw std::invalid_argument(o.name + ": " + lattice::describe(*l.elements[i]) +
                                  " has no length, so that a wake per metre does nothing there; "
                                  "allowed: a length > 0 that it stands for (`length`), or "
                                  "elements with length");
    }
    *run = {};
  };
  e.kick = [o, run, dipoles](beam::bunch& b, const tracking::kick_place& at) {
    if (b.size() == 0) return;
    const line_grid grid = grid_over(b, o.density, o.name, at.threads);
    watch_reach(o, grid, at, *run);
    const line_density d = deposit(b, grid, o.density, dipoles, at.threads);
    place_memory* kept = o.memory > 0 ? &run->memory[{at.element, at.from}] : nullptr;
    const auto potential = potential_of(o, d, at, kept);
    const auto& [longitudinal, dipole_x, dipole_y, quadrupole_x, quadrupole_y] = potential;
    const std::vector<double> none(grid.nodes);
    const auto kick = [&](std::size_t column, const std::vector<double>& even,
                          const std::vector<double>& gradient) {
      if (even.empty() && gradient.empty()) return;
      add_kick(b, column, grid, o.density.shape, even.empty() ? none : even, gradient, at.threads);
    };
    kick(1, dipole_x, quadrupole_x);
    kick(3, dipole_y, quadrupole_y);
    kick(5, longitudinal, {});
    if (kept) remember(o, *kept, d, at.ref.t);
  };
  if (o.memory > 0) {
    e.no_pull = "keeps wakes of earlier turns; allowed: memory = 0";
    return e;
  }
  e.pull = [o, dipoles](beam::bunch& b, const tracking::covector& lambda,
                        const tracking::kick_place& at) { return pull(o, dipoles, b, lambda, at); };
  return e;
}

}  // namespace betatron::collective
