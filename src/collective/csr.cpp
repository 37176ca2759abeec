#include "collective/csr.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "beam/text.h"
#include "collective/energy_kick.h"
#include "collective/line_pull.h"
#include "numerics/constants.h"
#include "numerics/entire.h"
#include "numerics/reduction.h"

namespace betatron::collective {

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

/// A place on the orbit behind the observer, who stands at the origin and looks along the axis.
struct place {
  double path = 0;  ///< along the orbit, to the observer
  double shortening =
      0;  ///< path - distance along the axis of the observer, formed without cancellation
  double aside = 0;  ///< distance across that axis
  double angle = 0;  ///< of the direction of flight
};

/// The place x further back on an arc (x < 0: ahead).
place back(const place& p, double curvature, double x) {
  const double half = 0.5 * curvature * x, middle = p.angle - half;
  double c[4];
  numerics::stumpff<4>(half * half, half * half, c);
  const double sine = std::sin(0.5 * middle);
  return {p.path + x, p.shortening + x * (2 * sine * sine + std::cos(middle) * half * half * c[3]),
          p.aside + x * std::sin(middle) * c[1], p.angle - 2 * half};
}

/// What an observer sees of a place, the source lifted out of the plane by `lift`.
struct sight {
  double behind;      ///< s = path - beta rho
  double stretching;  ///< kappa = ds/d(path)
  double potential;   ///< V
};

sight see(const place& p, double lift, double beta, double gamma) {
  const double along = p.path - p.shortening, aside2 = p.aside * p.aside + lift * lift;
  const double rho = std::sqrt(along * along + aside2);
  const double slowness = 1 / (gamma * gamma * (1 + beta));  // 1 - beta
  const double sine = std::sin(p.angle), half = std::sin(0.5 * p.angle), turned = 2 * half * half;
  const double cosine = std::cos(p.angle);
  const double projected = along * cosine + p.aside * sine;
  const double across = along * sine - p.aside * cosine;
  // 1 - cos a_s and path - rho without cancellation where the source is behind
  const double deviation = projected > 0
                               ? (across * across + lift * lift) / (rho * (rho + projected))
                               : 1 - projected / rho;
  const double detour = along > 0 ? p.shortening - aside2 / (rho + along) : p.path - rho;
  sight s;
  s.behind = slowness * rho + detour;
  s.stretching = slowness + beta * deviation;
  s.potential = (1 / (gamma * gamma) + beta * beta * turned +
                 beta * (along * turned - p.aside * sine) / rho) /
                (rho * s.stretching);
  return s;
}

/// Integral of V - V_straight on a circle, from 0 to s.
double circle_integral(double s, double radius, double gamma) {
  const double u = 4 * std::sinh(std::asinh(1.5 * gamma * gamma * gamma * s / radius) / 3);
  return (u * u - 4 * std::log1p(u * u / 12)) / (4 * gamma * gamma);
}

/// Gauss-Legendre, 6 points on [-1, 1].
constexpr std::array<double, 3> gauss_x = {0.238619186083196909, 0.661209386466264514,
                                           0.932469514203152028};
constexpr std::array<double, 3> gauss_w = {0.467913934572691047, 0.360761573048138608,
                                           0.171324492379170345};

/// Adds the integrals over cells of the potential of a source, going back along the orbit.
class march {
 public:
  march(std::span<const orbit_arc> arcs, const beam::reference& ref, double lift, double step,
        std::size_t n, double sign, std::vector<double>& cells)
      : arcs_(arcs),
        beta_(ref.beta()),
        gamma_(ref.gamma()),
        lift_(lift),
        step_(step),
        last_(static_cast<long>(n)),
        sign_(sign),
        cells_(cells) {}

  void run() {
    const bool image = lift_ != 0;
    cell_ = image ? 1 - last_ : 1;
    std::size_t first = 0;
    place p;
    double s = 0;
    double begin = 0;  // on the first arc
    if (image) {
      // an image is seen ahead, at -beta lift, when the source is beside the observer: begin where the first cell does
      begin = start_of_first_cell();
      s = static_cast<double>(cell_ - 1) * step_;
      double on_way = 0;
      while (on_way + length_of(first) < begin) {
        p = back(p, arcs_[first].curvature, length_of(first));
        on_way += length_of(first);
        ++first;
      }
      p = back(p, curvature_of(first), begin - on_way);
      begin -= on_way;
    } else {
      while (first < arcs_.size() && arcs_[first].curvature == 0) {
        p = back(p, 0, arcs_[first].length);
        ++first;
      }
      if (first == arcs_.size()) return;  // straight all the way
      s = see(p, 0, beta_, gamma_).behind;
      if (first == 0) {
        s = own_circle(p);
        first = 1;
      } else {
        cell_ = static_cast<long>(std::floor(s / step_)) + 1;
      }
    }
    for (std::size_t a = first; cell_ <= last_; ++a) {
      const double curvature = curvature_of(a);
      const double length = length_of(a);
      s = arc(p, s, curvature, a == first ? begin : 0, length);
      if (length == infinity) return;
      begin = 0;
    }
  }

 private:
  double length_of(std::size_t a) const { return a < arcs_.size() ? arcs_[a].length : infinity; }
  double curvature_of(std::size_t a) const { return a < arcs_.size() ? arcs_[a].curvature : 0; }

  void add(double integral) {
    cells_[static_cast<std::size_t>(last_ - 1 + cell_)] += sign_ * integral;
  }

  /// The cells within the arc that the observer is on, in closed form; p goes to its far end.
  double own_circle(place& p) {
    const double radius = 1 / std::fabs(arcs_[0].curvature), length = arcs_[0].length;
    double end = infinity;
    if (length < infinity) {
      // the closed form is that of small angles: it ends where its own s is that of the end
      const double u = gamma_ * length / radius;
      end = radius / (gamma_ * gamma_ * gamma_) * (u / 2 + u * u * u / 24);
      p = back(p, arcs_[0].curvature, length);
      offset_ = see(p, 0, beta_, gamma_).behind - end;
    }
    double before = 0;
    for (; cell_ <= last_; ++cell_) {
      const double s = std::min(static_cast<double>(cell_) * step_, end);
      const double integral = circle_integral(s, radius, gamma_);
      add(integral - before);
      before = integral;
      if (s == end) break;
    }
    return end;
  }

  /// From the place p, `begin` behind the start of an arc, to its end; s is the distance reached. Returns the new s.
  double arc(place& p, double s, double curvature, double begin, double length) {
    double x = begin;
    const place start = back(p, curvature, -begin);
    const auto at = [&](double y) { return back(start, curvature, y); };
    const auto distance = [&](double y) {
      return see(at(y), lift_, beta_, gamma_).behind - offset_;
    };
    while (x < length && cell_ <= last_) {
      // panels grow with the distance from the observer and, on arcs, with that from the last corner
      double panel = 0.25 * (std::fabs(start.path + x) + lift_) + 0.01 * lift_;
      if (curvature != 0) {
        panel = std::min(panel, std::fabs(x) + 1 / (gamma_ * std::fabs(curvature)));
      }
      double y = length - x <= panel * 1.0001 ? length : x + panel;
      const double edge = static_cast<double>(cell_) * step_;
      double reached = distance(y);
      const bool full = reached >= edge;
      if (full) {
        y = solve(distance, x, y, edge);
        reached = edge;
      }
      add(integral(start, curvature, x, y));
      s = std::max(s, reached);
      x = y;
      if (full) ++cell_;
    }
    p = at(std::min(x, length));
    return s;
  }

  double integral(const place& start, double curvature, double from, double to) const {
    const double half = 0.5 * (to - from), middle = 0.5 * (to + from);
    double sum = 0;
    for (std::size_t k = 0; k < 3; ++k) {
      for (const double side : {-1.0, 1.0}) {
        const sight v =
            see(back(start, curvature, middle + side * half * gauss_x[k]), lift_, beta_, gamma_);
        double potential = v.potential;
        if (lift_ == 0) potential -= 1 / (gamma_ * gamma_ * v.behind);
        sum += gauss_w[k] * potential * v.stretching;
      }
    }
    return half * sum;
  }

  /// Where distance(y) = wanted between x and y; it grows all the way.
  template <class Distance>
  static double solve(const Distance& distance, double x, double y, double wanted) {
    double fx = distance(x) - wanted, fy = distance(y) - wanted;
    if (fx >= 0) return x;
    int stuck = 0;  // the Illinois variant of false position
    for (int i = 0; i < 100 && y - x > 1e-14 * (std::fabs(x) + std::fabs(y)); ++i) {
      double m = x + (y - x) * (-fx / (fy - fx));
      if (!(m > x && m < y)) m = 0.5 * (x + y);
      const double fm = distance(m) - wanted;
      if (fm == 0) return m;
      if (fm < 0) {
        x = m;
        fx = fm;
        if (stuck == -1) fy *= 0.5;
        stuck = -1;
      } else {
        y = m;
        fy = fm;
        if (stuck == 1) fx *= 0.5;
        stuck = 1;
      }
      if (std::fabs(fm) < 1e-12 * std::fabs(wanted)) return m;
    }
    return 0.5 * (x + y);
  }

  /// Path distance at which the image is seen at the far end of the first cell; may be negative (ahead, on the first
  /// arc, which is continued).
  double start_of_first_cell() const {
    const double wanted = static_cast<double>(cell_ - 1) * step_;
    const auto distance = [&](double path) {
      place p;
      std::size_t a = 0;
      double rest = path;
      for (; rest > length_of(a); ++a) {
        p = back(p, arcs_[a].curvature, length_of(a));
        rest -= length_of(a);
      }
      return see(back(p, curvature_of(a), rest), lift_, beta_, gamma_).behind;
    };
    double low = 0, high = 0;
    double reach = std::max(lift_, step_);
    if (distance(0) > wanted) {
      do {
        high = low;
        low -= reach;
        reach *= 2;
      } while (distance(low) > wanted);
    } else {
      do {
        low = high;
        high += reach;
        reach *= 2;
      } while (distance(high) < wanted);
    }
    for (int i = 0; i < 200 && high - low > 1e-15 * (std::fabs(low) + std::fabs(high)); ++i) {
      const double m = 0.5 * (low + high);
      (distance(m) < wanted ? low : high) = m;
    }
    return 0.5 * (low + high);
  }

  std::span<const orbit_arc> arcs_;
  double beta_, gamma_, lift_, step_;
  long last_, cell_ = 1;
  double sign_;
  double offset_ = 0;  // of s from its small-angle form at the end of the own arc
  std::vector<double>& cells_;
};

/// Weights of Cohen, Rodriguez Villegas and Zagier (algorithm 1): sum_k (-1)^k a_k ~ sum_k weight_k a_k.
std::vector<double> alternating_weights(int n) {
  const double root = std::pow(3 + std::sqrt(8.0), n), d = (root + 1 / root) / 2;
  double b = -1, c = -d;
  std::vector<double> w;
  for (int k = 0; k < n; ++k) {
    c = b - c;
    w.push_back(c / d);
    b *= static_cast<double>(k + n) * (k - n) / ((k + 0.5) * (k + 1));
  }
  return w;
}

constexpr int images =
    20;  // the error of the alternating sum is then below (3 + sqrt 8)^-20 = 5e-16 of its terms

}  // namespace

std::vector<double> csr_cells(std::span<const orbit_arc> behind, const beam::reference& ref,
                              double step, std::size_t n, double gap) {
  std::vector<double> cells(2 * n);
  march(behind, ref, 0, step, n, 1, cells).run();
  if (gap != 0) {
    const auto weights = alternating_weights(images);
    for (int k = 0; k < images; ++k) {
      // the images at +-(k + 1) gap; the sign of the first is opposite to that of the beam
      march(behind, ref, (k + 1) * gap, step, n, -2 * weights[static_cast<std::size_t>(k)], cells)
          .run();
    }
  }
  return cells;
}

namespace {

/// Of csr_field, for cells of this width.
double field_scale(const beam::reference& ref, double step) {
  using namespace numerics::constants;
  return std::fabs(ref.particle.charge) / (4 * pi * vacuum_permittivity) / (step * step);
}

}  // namespace

std::vector<double> csr_field(const line_density& d, const beam::reference& ref,
                              std::span<const double> cells) {
  const std::size_t n = d.charge.size();
  const double step = d.grid.step * ref.beta();
  const double scale = field_scale(ref, step);
  // a cell of density between nodes j and j + 1, which is behind by j - i ... j - i + 1 steps, slopes upwards to the
  // head by (q_j - q_{j+1})/step^2
  std::vector<double> slope(n);
  for (std::size_t j = 0; j + 1 < n; ++j) slope[j] = d.charge[j] - d.charge[j + 1];
  std::vector<double> field(n);
  for (std::size_t i = 0; i < n; ++i) {
    double sum = 0;
    const double* from = cells.data() + (n - i);
    for (std::size_t j = 0; j < n; ++j) sum += slope[j] * from[j];
    field[i] = -scale * sum;
  }
  return field;
}

namespace {

/// True for elements that turn the plane of the orbit about the direction of flight or leave it.
bool turns_plane(const lattice::element& e) {
  return std::holds_alternative<elements::plane_rotation>(e.body) ||
         std::holds_alternative<elements::patch>(e.body);
}

/// The orbit behind a point of a line, from there backwards.
std::vector<orbit_arc> orbit_behind(const lattice::line& l, std::size_t element, double fraction) {
  std::vector<orbit_arc> arcs;
  const auto add = [&](double length, double curvature) {
    if (length == 0) return;
    if (!arcs.empty() && arcs.back().curvature == curvature) {
      arcs.back().length += length;
    } else {
      arcs.push_back({length, curvature});
    }
  };
  for (std::size_t i = element + 1; i-- > 0;) {
    const lattice::element& e = *l.elements[i];
    add(lattice::length(e) * (i == element ? fraction : 1.0), lattice::curvature(e));
  }
  return arcs;
}

/// What the model takes for the orbit behind a kick.
std::vector<orbit_arc> arcs_at(const csr_options& o, const lattice::line& l,
                               const tracking::kick_place& at) {
  if (o.transient) return orbit_behind(l, at.element, 0.5 * (at.from + at.to));
  return {{infinity, at.curvature}};
}

}  // namespace

tracking::effect csr(const csr_options& o, const lattice::line& l) {
  const std::string name = "CSR";
  check(o.density, name);
  if (!(o.gap >= 0) || !std::isfinite(o.gap)) {
    throw std::invalid_argument(name + ": shielding_gap = " + beam::number_text(o.gap) +
                                " m is not allowed; allowed: > 0, or none");
  }
  tracking::effect e;
  e.name = name;
  e.order = o.order;
  e.spacing = o.spacing;
  e.reversible = true;  // a kick along pt that depends on t
  bool bent = false;
  for (const auto& element : l.elements) {
    const double curvature = lattice::curvature(*element), length = lattice::length(*element);
    bent = bent || curvature != 0;
    if (o.transient && bent && turns_plane(*element)) {
      throw std::invalid_argument(name + ": " + lattice::describe(*element) +
                                  " turns the plane of the orbit; the transient model allows "
                                  "bends in one plane only");
    }
    if (o.transient && length < 0) {
      throw std::invalid_argument(name + ": " + lattice::describe(*element) + " has the length " +
                                  beam::number_text(length) +
                                  " m; the transient model needs lengths >= 0");
    }
    const bool kicked = curvature != 0 || (o.transient && o.drifts && bent);
    e.at.push_back(kicked ? 1 : 0);
  }
  e.needs_length = true;
  const auto check_length = [name](const beam::bunch& b, const line_grid& grid,
                                   const beam::reference& ref) {
    if (!grid.is_point) return;
    throw std::invalid_argument(name + " at s = " + beam::number_text(ref.s) + " m: all " +
                                std::to_string(b.size()) +
                                " particles have the same t; a bunch with a length is needed");
  };
  e.kick = [o, name, check_length](beam::bunch& b, const tracking::kick_place& at) {
    if (b.size() == 0 || at.length == 0) return;
    const line_grid grid = grid_over(b, o.density, name, at.threads);
    const line_density d = deposit(b, grid, o.density, false, at.threads);
    if (d.total() == 0) return;
    check_length(b, grid, at.ref);
    const auto cells =
        csr_cells(arcs_at(o, *at.line, at), at.ref, grid.step * at.ref.beta(), grid.nodes, o.gap);
    std::vector<double> gain = csr_field(d, at.ref, cells);
    for (double& g : gain) g *= at.length;
    add_energy(b, grid, o.density.shape, gain, at.threads);
  };
  e.pull = [o, name, check_length](beam::bunch& b, const tracking::covector& lambda,
                                   const tracking::kick_place& at) {
    tracking::kick_slopes slopes;
    if (b.size() == 0) return slopes;
    const line_grid grid = grid_over(b, o.density, name, at.threads);
    const line_density d = deposit(b, grid, o.density, false, at.threads);
    if (d.total() == 0) return slopes;
    check_length(b, grid, at.ref);
    const std::size_t n = grid.nodes;
    const auto arcs = arcs_at(o, *at.line, at);
    const double step = grid.step * at.ref.beta();
    const auto cells = csr_cells(arcs, at.ref, step, n, o.gap);
    std::vector<double> kick = csr_field(d, at.ref, cells);
    const double per_gain = -at.length / at.ref.momentum();
    const double per_length = -1 / at.ref.momentum();
    const line_pull adjoint(b, lambda, grid, o.density, at.threads);
    const std::vector<double> by_kick = adjoint.by_nodes(5, false);
    double work = numerics::dot(by_kick, kick);
    slopes.length = per_length * work;
    work *= per_gain;
    slopes.charge = work;
    for (double& v : kick) v *= per_gain;

    // kick_i = -factor sum_j (q_j - q_{j+1}) cells[n - i + j], factor ~ 1/step^2
    const double factor = per_gain * field_scale(at.ref, step);
    line_pull::sources by{std::vector<double>(n), {}, {}};
    std::vector<double> by_cells(2 * n);
    for (std::size_t i = 0; i < n; ++i) {
      const double v = -factor * by_kick[i];
      for (std::size_t j = 0; j + 1 < n; ++j) {
        const double slope = v * cells[n - i + j];
        by.charge[j] += slope;
        by.charge[j + 1] -= slope;
        by_cells[n - i + j] += v * (d.charge[j] - d.charge[j + 1]);
      }
    }
    const auto seen = [&](const std::vector<orbit_arc>& orbit, const beam::reference& ref,
                          double width) {
      return numerics::dot(by_cells, csr_cells(orbit, ref, width, n, o.gap));
    };
    const double by_width =
        central_slope([&](double width) { return seen(arcs, at.ref, width); }, step, step);
    const double by_step = by_width * at.ref.beta() - 2 * work / grid.step;
    // the width of a cell is beta times the step, the factor as 1/(beta^2 p0)
    const double gamma = at.ref.gamma(), inverse = at.ref.inverse_beta_gamma_squared();
    const double by_beta = by_width * grid.step - 2 * work / at.ref.beta();
    const double beta_slope =
        1 / (gamma * gamma * std::sqrt(at.ref.kinetic * (at.ref.kinetic + 2)));
    slopes.kinetic = by_beta * beta_slope - work * gamma * inverse +
                     central_slope(
                         [&](double kinetic) {
                           beam::reference ref = at.ref;
                           ref.kinetic = kinetic;
                           return seen(arcs, ref, step);
                         },
                         at.ref.kinetic, at.ref.kinetic);
    if (o.transient) {
      slopes.by_line = [o, at, step, n, by_cells](const lattice::line& now) {
        return numerics::dot(by_cells, csr_cells(arcs_at(o, now, at), at.ref, step, n, o.gap));
      };
    } else {
      slopes.curvature = central_slope(
          [&](double curvature) { return seen({{infinity, curvature}}, at.ref, step); },
          at.curvature, std::fabs(at.curvature));
    }
    adjoint.finish({{{}, {}, {std::move(kick), {}}}}, std::move(by), by_step);
    return slopes;
  };
  return e;
}

}  // namespace betatron::collective
