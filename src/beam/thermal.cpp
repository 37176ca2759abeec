#include "beam/thermal.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "beam/text.h"
#include "numerics/constants.h"
#include "numerics/dual.h"

namespace betatron::beam {

namespace {

using numerics::dual;

constexpr double pi = numerics::constants::pi;

double exp_minus_1(double x) { return std::expm1(x); }
dual<double, 2> exp_minus_1(const dual<double, 2>& x) {
  dual<double, 2> r;
  r.v = std::expm1(x.v);
  for (int i = 0; i < 2; ++i) r.d[i] = std::exp(x.v) * x.d[i];
  return r;
}

double value_of(double x) { return x; }
double value_of(const dual<double, 2>& x) { return x.v; }

/// Strengths a_i of the populations and temperatures T_i/T1.
template <class T>
struct equation {
  std::array<T, 2> a;
  T delta;
  std::array<double, 2> temperature;

  // v, w = rho^2 v', and for each population the integrals of rho^2 and rho^4 with exp(-v/T)
  struct state {
    std::array<T, 6> y{};
  };

  state slope(double rho, const state& s) const {
    const T& v = s.y[0];
    const double square = rho * rho;
    state d;
    d.y[0] = s.y[1] * (1 / square);
    d.y[1] = delta * (3 * square);
    for (std::size_t i = 0; i < 2; ++i) {
      const T below = exp_minus_1(v * (-1 / temperature[i]));
      d.y[1] = d.y[1] - a[i] * below * square;
      const T boltzmann = below + 1.0;
      d.y[2 + i] = boltzmann * square;
      d.y[4 + i] = boltzmann * (square * square);
    }
    return d;
  }

  /// The Taylor series at the centre.
  state start(double rho) const {
    state s;
    s.y[0] = delta * (rho * rho / 2);
    s.y[1] = delta * (rho * rho * rho);
    for (std::size_t i = 0; i < 2; ++i) {
      s.y[2 + i] = T(rho * rho * rho / 3);
      s.y[4 + i] = T(rho * rho * rho * rho * rho / 5);
    }
    return s;
  }

  /// From the centre to where nobody is left, by the formulas of Dormand and Prince (1980) of order
  /// 5(4); visit(rho, state) is called at every node. Returns the state at the end.
  template <class Visit>
  state integrate(double tolerance, double hottest, Visit&& visit) const {
    static constexpr double nodes[6] = {0, 0.2, 0.3, 0.8, 8.0 / 9, 1};
    static constexpr double steps[6][6] = {
        {},
        {0.2},
        {3.0 / 40, 9.0 / 40},
        {44.0 / 45, -56.0 / 15, 32.0 / 9},
        {19372.0 / 6561, -25360.0 / 2187, 64448.0 / 6561, -212.0 / 729},
        {9017.0 / 3168, -355.0 / 33, 46732.0 / 5247, 49.0 / 176, -5103.0 / 18656}};
    static constexpr double last[6] = {35.0 / 384,     0,        500.0 / 1113, 125.0 / 192,
                                       -2187.0 / 6784, 11.0 / 84};
    static constexpr double error[7] = {71.0 / 57600,      0,          -71.0 / 16695, 71.0 / 1920,
                                        -17253.0 / 339200, 22.0 / 525, -1.0 / 40};
    // beyond: exp(-48) = 1e-21. Steps stay small enough for cubic interpolation between nodes.
    const double end = 48 * hottest;
    constexpr double largest_step = 0.05;
    double rho = 1e-3, h = 1e-3;
    state s = start(rho);
    visit(rho, s);
    while (value_of(s.y[0]) < end) {
      if (!(rho < 1e6)) throw std::runtime_error("the potential does not confine");
      state stage[7];
      for (std::size_t i = 0; i < 6; ++i) {
        state at = s;
        for (std::size_t j = 0; j < i; ++j) {
          for (std::size_t c = 0; c < 6; ++c) at.y[c] = at.y[c] + stage[j].y[c] * (h * steps[i][j]);
        }
        stage[i] = slope(rho + h * nodes[i], at);
      }
      state next = s;
      for (std::size_t j = 0; j < 6; ++j) {
        for (std::size_t c = 0; c < 6; ++c) next.y[c] = next.y[c] + stage[j].y[c] * (h * last[j]);
      }
      stage[6] = slope(rho + h, next);
      double wrong = 0;
      for (std::size_t c = 0; c < 6; ++c) {
        double e = 0;
        for (std::size_t j = 0; j < 7; ++j) e += error[j] * value_of(stage[j].y[c]);
        wrong = std::max(wrong, std::abs(h * e / value_of(next.y[c])));
      }
      if (wrong <= tolerance) {
        rho += h;
        s = next;
        visit(rho, s);
      }
      const double factor = wrong > 0 ? 0.9 * std::pow(tolerance / wrong, 0.2) : 5;
      h = std::min(h * std::clamp(factor, 0.2, 5.0), largest_step);
      if (h < 1e-12 * rho) throw std::runtime_error("steps become too small");
    }
    return s;
  }
};

/// The equation for unknowns x = ln(sum a/(3 delta)) and y = ln(a2/a1).
template <class T>
equation<T> equation_of(const T& x, const T& y, const std::array<double, 2>& temperature,
                        bool halo) {
  using std::exp;
  const auto share = [](const T& u) {  // 1/(1 + exp(-u)) without overflow
    return value_of(u) > 0 ? T(1.0) / (T(1.0) + exp(-u)) : exp(u) / (T(1.0) + exp(u));
  };
  const T total = share(x) * 3.0;
  if (!halo) return {{total, T(0.0)}, share(-x), temperature};
  return {{total * share(-y), total * share(y)}, share(-x), temperature};
}

void check(const char* name, double value, bool valid, const char* allowed) {
  if (std::isfinite(value) && valid) return;
  throw std::invalid_argument("thermal beam: " + std::string(name) + " = " + number_text(value) +
                              " must be finite and " + allowed);
}

/// The unknowns x and y: Newton's method with the exact derivatives.
std::array<double, 2> solve(const std::array<double, 2>& temperature, double halo, double strength,
                            double tolerance) {
  using number = dual<double, 2>;
  const bool two = halo > 0;
  const double hottest = two ? std::max(temperature[0], temperature[1]) : temperature[0];
  const auto without_charge = [&](std::size_t i) {  // int rho^2 exp(-rho^2/(2 T)) drho
    return std::sqrt(pi / 2) * std::pow(temperature[i], 1.5);
  };
  // first guess: the Gaussian of weak charge, or the radius of the uniform ball of strong charge
  const double weak = strength * ((1 - halo) / without_charge(0) + halo / without_charge(1));
  const double radius = std::sqrt(3.0) * std::cbrt(strength * (1 - halo));
  double x = weak < 1 ? std::log(weak / (3 - weak)) : std::max(0.0, radius - 2);
  double y = two ? std::log(halo / (1 - halo) * without_charge(0) / without_charge(1)) : 0;
  double before = std::numeric_limits<double>::infinity();
  for (int i = 0; i < 200; ++i) {
    const auto e = equation_of(number::variable(x, 0), number::variable(y, 1), temperature, two);
    const auto end = e.integrate(tolerance, hottest, [](double, const auto&) {});
    const number core = e.a[0] * end.y[2];
    number total = core;
    if (two) total = total + e.a[1] * end.y[3];
    const number f = log(total) - std::log(strength);
    number g = number::variable(y, 1);  // without a halo: y stays 0
    if (two) g = log(e.a[1] * end.y[3]) - log(core) - std::log(halo / (1 - halo));
    const double determinant = f.d[0] * g.d[1] - f.d[1] * g.d[0];
    const double dx = -(f.v * g.d[1] - f.d[1] * g.v) / determinant;
    const double dy = -(f.d[0] * g.v - f.v * g.d[0]) / determinant;
    const double size = std::abs(f.v) + std::abs(g.v);
    if (size <= 1e-12 || (size <= 100 * tolerance && size >= before)) return {x, y};
    before = size;
    const double shorten = std::min(1.0, 8 / std::max(std::abs(dx), std::abs(dy)));
    x += shorten * dx;
    y += shorten * dy;
    if (!std::isfinite(x) || !std::isfinite(y)) break;
  }
  throw std::runtime_error("Newton's method does not converge");
}

/// Between the nodes j and j + 1: the cubic with the values and slopes there.
double hermite(const std::vector<double>& x, const std::vector<double>& f,
               const std::vector<double>& slope, std::size_t j, double at) {
  const double h = x[j + 1] - x[j], t = (at - x[j]) / h, u = 1 - t;
  return u * u * ((1 + 2 * t) * f[j] + t * h * slope[j]) +
         t * t * ((1 + 2 * u) * f[j + 1] - u * h * slope[j + 1]);
}

std::size_t interval(const std::vector<double>& x, double at) {
  const auto above = std::upper_bound(x.begin() + 1, x.end() - 1, at);
  return static_cast<std::size_t>(above - x.begin()) - 1;
}

}  // namespace

thermal_profile::thermal_profile(const thermal_parameters& p, double intensity, double tolerance)
    : parameters_(p) {
  check("k", p.k, p.k > 0, "> 0 (1/m)");
  check("kT", p.kT, p.kT > 0, "> 0");
  check("halo", p.halo, p.halo >= 0 && p.halo < 1, ">= 0 and < 1");
  check("kT_halo", p.kT_halo, p.halo == 0 || p.kT_halo > 0, "> 0");
  check("intensity", intensity, intensity >= 0, ">= 0 (m)");
  const bool two = p.halo > 0;
  const std::array<double, 2> temperature = {1, two ? p.kT_halo / p.kT : 1};
  const double hottest = std::max(temperature[0], temperature[1]);
  length_ = std::sqrt(p.kT) / p.k;
  const double strength = intensity * p.k / (4 * pi * p.kT * std::sqrt(p.kT));
  equation<double> e{{0, 0}, 1, temperature};
  equation<double>::state end;
  try {
    if (strength > 1e-14) {  // below, the field is lost in rounding
      const auto [x, y] = solve(temperature, p.halo, strength, tolerance);
      e = equation_of(x, y, temperature, two);
    }
    rho_ = v_ = v_slope_ = {0};
    for (std::size_t i = 0; i < 2; ++i) inside_[i] = inside_slope_[i] = {0};
    end = e.integrate(tolerance, hottest, [&](double rho, const auto& s) {
      rho_.push_back(rho);
      v_.push_back(s.y[0]);
      v_slope_.push_back(s.y[1] / (rho * rho));
      for (std::size_t i = 0; i < 2; ++i) {
        inside_[i].push_back(s.y[2 + i]);
        inside_slope_[i].push_back(rho * rho * std::exp(-s.y[0] / temperature[i]));
      }
    });
  } catch (const std::runtime_error& error) {
    throw std::runtime_error("thermal beam: no equilibrium found for k = " + number_text(p.k) +
                             " 1/m, kT = " + number_text(p.kT) + ", kT_halo = " +
                             number_text(p.kT_halo) + ", halo = " + number_text(p.halo) +
                             ", intensity = " + number_text(intensity) + " m: " + error.what());
  }
  delta_ = e.delta;
  double square = 0;  // of r
  for (std::size_t i = 0; i < 2; ++i) {
    const double fraction = i == 0 ? 1 - p.halo : p.halo;
    const double all = end.y[2 + i];
    for (double& c : inside_[i]) c /= all;
    for (double& c : inside_slope_[i]) c /= all;
    central_[i] = fraction / (4 * pi * all * length_ * length_ * length_);
    square += fraction * end.y[4 + i] / all * length_ * length_;
  }
  sigma_position_ = std::sqrt(square / 3);
  sigma_momentum_ = std::sqrt((1 - p.halo) * p.kT + p.halo * (two ? p.kT_halo : 0));
}

double thermal_profile::radius(std::size_t population, double u) const {
  const std::vector<double>& inside = inside_[population];
  const std::size_t j = interval(inside, u);
  double low = rho_[j], high = rho_[j + 1];
  for (int i = 0; i < 60 && high - low > 1e-14 * high; ++i) {  // regula falsi with bisection
    const double low_value = hermite(rho_, inside, inside_slope_[population], j, low) - u;
    const double high_value = hermite(rho_, inside, inside_slope_[population], j, high) - u;
    double middle = i % 3 == 2 ? (low + high) / 2
                               : (low * high_value - high * low_value) / (high_value - low_value);
    if (!(middle > low && middle < high)) middle = (low + high) / 2;
    const double value = hermite(rho_, inside, inside_slope_[population], j, middle) - u;
    if (value == 0) return middle * length_;
    (value < 0 ? low : high) = middle;
  }
  return (low + high) / 2 * length_;
}

double thermal_profile::potential(double r) const {
  const double rho = r / length_;
  if (!(rho <= rho_.back())) {  // all charge is inside
    // rho^2 v' = rho^3 - strength there, which integrates to
    const double at = rho_.back(), strength = at * at * (at - v_slope_.back());
    return parameters_.kT * (v_.back() + (rho * rho - at * at) / 2 + strength * (1 / rho - 1 / at));
  }
  return parameters_.kT * hermite(rho_, v_, v_slope_, interval(rho_, rho), rho);
}

double thermal_profile::density(double r) const {
  const double u = potential(r);
  double sum = central_[0] * std::exp(-u / parameters_.kT);
  if (parameters_.halo > 0) sum += central_[1] * std::exp(-u / parameters_.kT_halo);
  return sum;
}

}  // namespace betatron::beam
