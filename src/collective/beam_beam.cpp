#include "collective/beam_beam.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>

#include "beam/text.h"
#include "collective/chunks.h"
#include "fields/gaussian.h"
#include "fields/poisson_2d.h"
#include "numerics/constants.h"

namespace betatron::collective {

namespace {

using namespace numerics::constants;

void require(bool good, const std::string& what, double value, const std::string& allowed) {
  if (good && std::isfinite(value)) return;
  throw std::invalid_argument("BeamBeam: " + what + " = " + beam::number_text(value) +
                              " is not allowed; allowed: " + allowed);
}

/// A particle in the frame in which beams meet head on: angles and energy deviation as slopes and delta, sigma ahead.
struct star {
  double x, px, y, py, sigma, delta;
};

/// Hirata's boost and its inverse.
class boost {
 public:
  boost(double half_angle, double plane)
      : sine_(std::sin(half_angle)),
        cosine_(std::cos(half_angle)),
        tangent_(std::tan(half_angle)),
        along_x_(std::cos(plane)),
        along_y_(std::sin(plane)) {}

  void apply(star& z) const {
    const double h = lag(z);
    const double px = (z.px - h * along_x_ * tangent_) / cosine_;
    const double py = (z.py - h * along_y_ * tangent_) / cosine_;
    z.delta += tangent_ * (h * tangent_ - z.px * along_x_ - z.py * along_y_);
    z.px = px;
    z.py = py;
    const auto l = positions(z);
    z = {l[0][0] * z.x + l[0][1] * z.y + l[0][2] * z.sigma, z.px,
         l[1][0] * z.x + l[1][1] * z.y + l[1][2] * z.sigma, z.py,
         l[2][0] * z.x + l[2][1] * z.y + l[2][2] * z.sigma, z.delta};
  }

  void undo(star& z) const {
    const auto l = positions(z);
    const auto minor = [&](std::size_t i, std::size_t j) {
      const std::size_t r = (i + 1) % 3, s = (i + 2) % 3, c = (j + 1) % 3, d = (j + 2) % 3;
      return l[r][c] * l[s][d] - l[r][d] * l[s][c];
    };
    const double determinant =
        l[0][0] * minor(0, 0) + l[0][1] * minor(0, 1) + l[0][2] * minor(0, 2);
    const auto solved = [&](std::size_t i) {
      return (minor(0, i) * z.x + minor(1, i) * z.y + minor(2, i) * z.sigma) / determinant;
    };
    const double x = solved(0), y = solved(1), sigma = solved(2);
    const double h = lag(z) * cosine_ * cosine_;
    const double px = z.px * cosine_ + h * along_x_ * tangent_;
    const double py = z.py * cosine_ + h * along_y_ * tangent_;
    const double delta = z.delta + tangent_ * (px * along_x_ + py * along_y_ - h * tangent_);
    z = {x, px, y, py, sigma, delta};
  }

 private:
  /// 1 + delta - pz without cancellation.
  static double lag(const star& z) {
    const double p = 1 + z.delta, across = z.px * z.px + z.py * z.py;
    return across / (p + std::sqrt(p * p - across));
  }

  /// (x, y, sigma) of the boosted frame over those of the laboratory; z has its momenta boosted.
  std::array<std::array<double, 3>, 3> positions(const star& z) const {
    const double pz = 1 + z.delta - lag(z);
    const double hx = z.px / pz, hy = z.py / pz, hs = -lag(z) / pz;
    const double a = along_x_ * sine_, b = along_y_ * sine_;
    return {{{1 + hx * a, hx * b, along_x_ * tangent_},
             {hy * a, 1 + hy * b, along_y_ * tangent_},
             {hs * a, hs * b, 1 / cosine_}}};
  }

  double sine_, cosine_, tangent_, along_x_, along_y_;
};

/// The squared size and its slope.
struct envelope_at {
  double square, slope;
};

/// What a particle meets: a Gaussian slice that drifts.
struct slice_of {
  double sigma;   ///< where it is in its bunch, ahead
  double charge;  ///< K E has this factor: K, of this slice [m]
  /// <q>, <q'>, <q q>, <q q'>, <q' q'> at the collision point, S running with the particle
  std::array<double, 5> x, y;

  envelope_at size(const std::array<double, 5>& q, double s) const {
    return {q[2] + s * (2 * q[3] + s * q[4]), 2 * (q[3] + s * q[4])};
  }
};

/// dE_x/dx of a Gaussian beam at a point where its field is e; dE_y/dy follows from the charge there.
double gradient_x(const fields::gaussian_2d& g, double x, double y,
                  const fields::transverse_field<double>& e, double density) {
  const double xx = g.sigma_x * g.sigma_x, yy = g.sigma_y * g.sigma_y;
  if (std::fabs(xx - yy) > 0.3 * std::max(xx, yy)) {
    // the heat equation of the Gaussian: dE_x/dx = (1 - x E_x - y E_y - yy density)/(xx - yy)
    return (1 - x * e.x - y * e.y - yy * density) / (xx - yy);
  }
  // nearly round: that is a small difference over another; differences of order 4 instead
  const double h = 2e-3 * g.sigma_x;
  const auto field = [&](double at) { return g.field(at, y).x; };
  return (8 * (field(x + h) - field(x - h)) - (field(x + 2 * h) - field(x - 2 * h))) / (12 * h);
}

/// The synchro-beam mapping of one slice.
void meet(star& z, const slice_of& slice) {
  const double s = 0.5 * (z.sigma - slice.sigma);
  const envelope_at width = slice.size(slice.x, s), height = slice.size(slice.y, s);
  const double x = z.x + s * z.px - (slice.x[0] + s * slice.x[1]);
  const double y = z.y + s * z.py - (slice.y[0] + s * slice.y[1]);
  const fields::gaussian_2d g{std::sqrt(width.square), std::sqrt(height.square)};
  const auto e = g.field(x, y);
  const double fx = slice.charge * e.x, fy = slice.charge * e.y;
  double fz = 0.5 * (fx * (z.px + 0.5 * fx) + fy * (z.py + 0.5 * fy));
  // a slice that moves across drags its potential along
  fz -= 0.5 * (fx * slice.x[1] + fy * slice.y[1]);
  if (width.slope != 0 || height.slope != 0) {
    const double density =
        std::exp(-0.5 * (x * x / width.square + y * y / height.square)) / (g.sigma_x * g.sigma_y);
    const double ex = gradient_x(g, x, y, e, density);
    fz += 0.25 * slice.charge * (ex * width.slope + (density - ex) * height.slope);
  }
  z.px += fx;
  z.py += fy;
  z.x -= s * fx;
  z.y -= s * fy;
  z.delta += fz;
}

/// Coordinates of a particle as Hirata's, and back.
class frame {
 public:
  frame(const beam::reference& ref, const collision_options& o)
      : inverse_beta_(ref.inverse_beta()),
        boost_(o.half_angle, o.plane),
        crossed_(o.half_angle != 0) {}

  template <class F>
  star read(const beam::columns<F>& c, std::size_t i) const {
    const double pt = static_cast<double>(c.z[5][i]);
    const double excess = pt * (pt - 2 * inverse_beta_);  // P^2 - 1
    star z{static_cast<double>(c.z[0][i]),  static_cast<double>(c.z[1][i]),
           static_cast<double>(c.z[2][i]),  static_cast<double>(c.z[3][i]),
           -static_cast<double>(c.z[4][i]), excess / (1 + std::sqrt(1 + excess))};
    if (crossed_) boost_.apply(z);
    return z;
  }

  template <class F>
  void write(star z, const beam::columns<F>& c, std::size_t i) const {
    if (crossed_) boost_.undo(z);
    const double excess = z.delta * (2 + z.delta);
    // pt = 1/beta0 - sqrt(1/beta0^2 + P^2 - 1)
    const double pt = -excess / (inverse_beta_ + std::sqrt(inverse_beta_ * inverse_beta_ + excess));
    const std::array<double, 6> values = {z.x, z.px, z.y, z.py, -z.sigma, pt};
    for (std::size_t k = 0; k < 6; ++k) c.z[k][i] = static_cast<F>(values[k]);
  }

 private:
  double inverse_beta_;
  boost boost_;
  bool crossed_;
};

/// K of one coulomb of the other beam.
double strength(const beam::reference& ref, double other_beta) {
  const double beta = ref.beta();
  return ref.particle.charge * (1 + beta * other_beta) / (beta + other_beta) /
         (2 * pi * vacuum_permittivity * ref.momentum());
}

void check(const strong_plane& p, const std::string& name) {
  require(p.sigma > 0, "sigma_" + name, p.sigma, "> 0");
  require(p.beta >= 0, "beta_" + name, p.beta, "> 0, or none");
  require(true, "alpha_" + name, p.alpha, "finite numbers");
  require(true, "offset_" + name, p.offset, "finite numbers");
}

void check_crossing(double half_angle, double plane, int slices) {
  require(std::fabs(half_angle) < 0.5, "half of the crossing angle", half_angle,
          "|angle| < 0.5 rad");
  require(true, "crossing_plane", plane, "finite numbers");
  require(slices >= 1 && slices <= 1000, "slices", slices, "1 ... 1000");
}

}  // namespace

std::vector<double> gaussian_slices(int slices) {
  // bisection for the borders of equal charge; the mean of a slice is the difference of the density at its borders
  std::vector<double> centres;
  const auto density = [](double u) { return std::exp(-0.5 * u * u) / std::sqrt(2 * pi); };
  double before = 0;
  for (int k = 1; k <= slices; ++k) {
    double border = 0;
    if (k < slices) {
      double low = -10, high = 10;
      for (int i = 0; i < 100; ++i) {
        const double middle = 0.5 * (low + high);
        (0.5 * std::erfc(-middle / std::sqrt(2.0)) * slices < k ? low : high) = middle;
      }
      border = density(0.5 * (low + high));
    }
    centres.push_back(slices * (before - border));
    before = border;
  }
  return centres;
}

tracking::effect beam_beam(const beam_beam_options& o) {
  check(o.x, "x");
  check(o.y, "y");
  require(true, "charge", o.charge, "finite numbers");
  require(o.sigma_t >= 0, "sigma_t", o.sigma_t, "> 0, or none");
  require(o.other_beta > 0 && o.other_beta <= 1, "other_beta", o.other_beta, "> 0 and <= 1");
  check_crossing(o.half_angle, o.plane, o.slices);
  require(o.half_angle == 0 || o.sigma_t > 0, "half of the crossing angle", o.half_angle,
          "0 without a bunch length (give sigma_t)");
  if (o.at.empty()) {
    throw std::invalid_argument("BeamBeam needs `at`: the elements where the beams meet");
  }
  tracking::effect e;
  e.name = "BeamBeam";
  e.at = o.at;
  e.reversible = o.sigma_t == 0;  // a thin lens that leaves x and y as they are
  e.kick = [o](beam::bunch& b, const tracking::kick_place& at) {
    const double unit = strength(at.ref, o.other_beta) * o.charge;
    const double part = std::copysign(at.to - at.from, at.length);
    if (o.sigma_t == 0) {
      const fields::gaussian_2d g{o.x.sigma, o.y.sigma};
      b.visit([&](const auto& c) {
        using F = typename std::remove_cvref_t<decltype(c)>::value_type;
        for_chunks(c.size, at.threads, [&](std::size_t, std::size_t first, std::size_t last) {
          const std::size_t n = last - first;
          std::vector<double> x(n), y(n), ex(n), ey(n);
          for (std::size_t i = 0; i < n; ++i) {
            x[i] = static_cast<double>(c.z[0][first + i]) - o.x.offset;
            y[i] = static_cast<double>(c.z[2][first + i]) - o.y.offset;
          }
          fields::field_of(g, x.data(), y.data(), ex.data(), ey.data(), n);
          for (std::size_t i = 0; i < n; ++i) {
            F &px = c.z[1][first + i], &py = c.z[3][first + i];
            px = static_cast<F>(static_cast<double>(px) + unit * part * ex[i]);
            py = static_cast<F>(static_cast<double>(py) + unit * part * ey[i]);
          }
        });
      });
      return;
    }
    // the strong bunch in the boosted frame: sizes stay, angles and length grow by 1/cos
    const double cosine = std::cos(o.half_angle), sine = std::sin(o.half_angle);
    const auto plane = [&](const strong_plane& p, double tilt, double sigma) {
      std::array<double, 5> q = {p.offset + sigma * sine * tilt, 0, p.sigma * p.sigma, 0, 0};
      if (p.beta > 0) {
        const double emittance = p.sigma * p.sigma / p.beta;
        q[3] = -emittance * p.alpha / cosine;
        q[4] = emittance * (1 + p.alpha * p.alpha) / p.beta / (cosine * cosine);
      }
      return q;
    };
    std::vector<slice_of> slices;
    const auto centres = gaussian_slices(o.slices);
    for (auto centre = centres.rbegin(); centre != centres.rend();
         ++centre) {  // the head comes first
      const double sigma = *centre * o.sigma_t / cosine;
      slices.push_back({sigma, unit * part / o.slices, plane(o.x, std::cos(o.plane), sigma),
                        plane(o.y, std::sin(o.plane), sigma)});
    }
    const frame f(at.ref, {o.slices, o.half_angle, o.plane});
    b.visit([&](const auto& c) {
      for_chunks(c.size, at.threads, [&](std::size_t, std::size_t first, std::size_t last) {
        for (std::size_t i = first; i < last; ++i) {
          star z = f.read(c, i);
          for (const slice_of& slice : slices) meet(z, slice);
          f.write(z, c, i);
        }
      });
    });
  };
  return e;
}

namespace {

/// A bunch in the boosted frame, sorted into slices of equal charge, head first.
struct sliced {
  std::vector<star> particles;
  std::vector<double> weight;
  std::vector<std::size_t> from;    ///< original positions
  std::vector<std::size_t> border;  ///< slice k is [border[k], border[k + 1])
};

sliced cut(const beam::bunch& b, const frame& f, int slices, const char* name) {
  sliced s;
  const std::size_t n = b.size();
  s.from.resize(n);
  std::iota(s.from.begin(), s.from.end(), std::size_t{0});
  std::vector<star> all;
  std::vector<double> weight;
  b.visit([&](const auto& c) {
    for (std::size_t i = 0; i < n; ++i) {
      all.push_back(f.read(c, i));
      weight.push_back(static_cast<double>(c.weight[i]));
      if (!std::isfinite(all.back().sigma) || !std::isfinite(all.back().delta)) {
        throw std::invalid_argument(std::string("collide: a particle of the ") + name +
                                    " beam has a coordinate that is not finite");
      }
    }
  });
  std::stable_sort(s.from.begin(), s.from.end(),
                   [&](std::size_t i, std::size_t k) { return all[i].sigma > all[k].sigma; });
  double total = 0;
  for (const std::size_t i : s.from) {
    s.particles.push_back(all[i]);
    s.weight.push_back(weight[i]);
    total += weight[i];
  }
  s.border.push_back(0);
  double sum = 0;
  for (std::size_t i = 0; i < n; ++i) {
    sum += s.weight[i];
    while (static_cast<int>(s.border.size()) < slices &&
           sum >= total * static_cast<double>(s.border.size()) / slices) {
      s.border.push_back(i + 1);
    }
  }
  while (static_cast<int>(s.border.size()) < slices + 1) s.border.push_back(n);
  s.border.back() = n;
  return s;
}

/// The moments of a slice as the other beam sees them: S runs the other way. `unit`: K of the kicked beam over one
/// coulomb, `coulomb` of one real particle.
slice_of seen(const sliced& s, std::size_t k, double unit, const char* name, bool needs_size) {
  slice_of r{};
  double weight = 0;
  std::array<double, 5> x{}, y{};
  for (std::size_t i = s.border[k]; i < s.border[k + 1]; ++i) {
    const star& z = s.particles[i];
    const double w = s.weight[i];
    weight += w;
    r.sigma += w * z.sigma;
    x[0] += w * z.x;
    x[1] += w * z.px;
    y[0] += w * z.y;
    y[1] += w * z.py;
  }
  if (weight == 0) return r;
  r.sigma /= weight;
  for (std::size_t j = 0; j < 2; ++j) {
    x[j] /= weight;
    y[j] /= weight;
  }
  for (std::size_t i = s.border[k]; i < s.border[k + 1]; ++i) {
    const star& z = s.particles[i];
    const double w = s.weight[i] / weight;
    const double dx = z.x - x[0], dpx = z.px - x[1], dy = z.y - y[0], dpy = z.py - y[1];
    x[2] += w * dx * dx;
    x[3] += w * dx * dpx;
    x[4] += w * dpx * dpx;
    y[2] += w * dy * dy;
    y[3] += w * dy * dpy;
    y[4] += w * dpy * dpy;
  }
  if (needs_size && (!(x[2] > 0) || !(y[2] > 0))) {
    throw std::invalid_argument(
        std::string("collide: slice ") + std::to_string(k) + " of the " + name +
        " beam has rms sizes of " + beam::number_text(std::sqrt(x[2])) + " m and " +
        beam::number_text(std::sqrt(y[2])) + " m; allowed: > 0 (more particles, or fewer slices)");
  }
  x[1] = -x[1];
  x[3] = -x[3];
  y[1] = -y[1];
  y[3] = -y[3];
  r.x = x;
  r.y = y;
  r.charge = unit * weight;
  return r;
}

void kick(sliced& s, std::size_t k, const slice_of& by, unsigned threads) {
  if (by.charge == 0) return;
  const std::size_t first = s.border[k];
  for_chunks(s.border[k + 1] - first, threads, [&](std::size_t, std::size_t low, std::size_t high) {
    for (std::size_t i = first + low; i < first + high; ++i) meet(s.particles[i], by);
  });
}

/// Where particles pass the centre of the other slice.
void encounter(const sliced& s, std::size_t k, double centre,
               std::vector<std::array<double, 2>>& at) {
  at.clear();
  for (std::size_t i = s.border[k]; i < s.border[k + 1]; ++i) {
    const star& z = s.particles[i];
    const double path = 0.5 * (z.sigma - centre);
    at.push_back({z.x + path * z.px, z.y + path * z.py});
  }
}

/// The field of the particles of a slice, on a grid that covers those that it kicks too.
class mesh_field {
 public:
  using points = std::vector<std::array<double, 2>>;

  mesh_field(fields::open_solver_2d& solver, std::array<std::size_t, 2> nodes,
             const points& sources, const double* weight, const points& kicked)
      : n_(nodes), potential_({nodes[0], nodes[1], 2}) {
    for (std::size_t axis = 0; axis < 2; ++axis) {
      double low = sources[0][axis], high = low;
      for (const points* some : {&sources, &kicked}) {
        for (const auto& at : *some) {
          low = std::min(low, at[axis]);
          high = std::max(high, at[axis]);
        }
      }
      // two cells at each side, for the shape and the difference
      edge_[axis] = (high - low) / static_cast<double>(n_[axis] - 5) * (1 + 1e-9);
      origin_[axis] = low - 2 * edge_[axis];
    }
    const double longest = std::max(edge_[0], edge_[1]);
    if (!(longest > 0)) {
      throw std::invalid_argument(
          "collide: all particles of two slices are at the same place; the grid "
          "needs a size");
    }
    for (std::size_t axis = 0; axis < 2; ++axis) {
      const double edge = std::max(edge_[axis], 1e-6 * longest);
      origin_[axis] -= 0.5 * (edge - edge_[axis]) * static_cast<double>(n_[axis] - 1);
      edge_[axis] = edge;
    }
    potential_.clear(1);
    for (std::size_t i = 0; i < sources.size(); ++i) {
      const place at = find(sources[i]);
      potential_.at(at.i, at.j, 0) += weight[i] * (1 - at.u) * (1 - at.v);
      potential_.at(at.i + 1, at.j, 0) += weight[i] * at.u * (1 - at.v);
      potential_.at(at.i, at.j + 1, 0) += weight[i] * (1 - at.u) * at.v;
      potential_.at(at.i + 1, at.j + 1, 0) += weight[i] * at.u * at.v;
    }
    solver.set_cells(edge_);
    solver.solve(potential_);
  }

  fields::transverse_field<double> operator()(const std::array<double, 2>& point) const {
    const place at = find(point);
    const auto mean = [&](auto&& field) {
      return (1 - at.v) * ((1 - at.u) * field(at.i, at.j) + at.u * field(at.i + 1, at.j)) +
             at.v * ((1 - at.u) * field(at.i, at.j + 1) + at.u * field(at.i + 1, at.j + 1));
    };
    return {mean([&](std::size_t i, std::size_t j) {
              return (potential_.at(i - 1, j, 0) - potential_.at(i + 1, j, 0)) / (2 * edge_[0]);
            }),
            mean([&](std::size_t i, std::size_t j) {
              return (potential_.at(i, j - 1, 0) - potential_.at(i, j + 1, 0)) / (2 * edge_[1]);
            })};
  }

 private:
  struct place {
    std::size_t i, j;
    double u, v;
  };

  place find(const std::array<double, 2>& point) const {
    const double x = (point[0] - origin_[0]) / edge_[0], y = (point[1] - origin_[1]) / edge_[1];
    const double i = std::clamp(std::floor(x), 1.0, static_cast<double>(n_[0] - 3));
    const double j = std::clamp(std::floor(y), 1.0, static_cast<double>(n_[1] - 3));
    return {static_cast<std::size_t>(i), static_cast<std::size_t>(j), x - i, y - j};
  }

  std::array<std::size_t, 2> n_;
  std::array<double, 2> origin_{}, edge_{};
  fields::grid<double> potential_;
};

void kick(sliced& s, std::size_t k, const slice_of& by, double unit, const mesh_field& field,
          const mesh_field::points& at, unsigned threads) {
  const std::size_t first = s.border[k];
  for_chunks(at.size(), threads, [&](std::size_t, std::size_t low, std::size_t high) {
    for (std::size_t n = low; n < high; ++n) {
      star& z = s.particles[first + n];
      const auto e = field(at[n]);
      const double fx = unit * e.x, fy = unit * e.y, path = 0.5 * (z.sigma - by.sigma);
      z.delta += 0.5 * (fx * (z.px + 0.5 * fx - by.x[1]) + fy * (z.py + 0.5 * fy - by.y[1]));
      z.px += fx;
      z.py += fy;
      z.x -= path * fx;
      z.y -= path * fy;
    }
  });
}

void put_back(beam::bunch& b, const sliced& s, const frame& f) {
  b.visit([&](const auto& c) {
    for (std::size_t i = 0; i < s.from.size(); ++i) f.write(s.particles[i], c, s.from[i]);
  });
}

}  // namespace

void collide(beam::bunch& a, beam::bunch& b, const collision_options& o, unsigned threads) {
  check_crossing(o.half_angle, o.plane, o.slices);
  if (a.size() == 0 || b.size() == 0) return;
  const frame frame_a(a.ref, o), frame_b(b.ref, o);
  sliced first = cut(a, frame_a, o.slices, "first"), second = cut(b, frame_b, o.slices, "second");
  const double unit_a = strength(a.ref, b.ref.beta()) * b.ref.particle.charge * elementary_charge;
  const double unit_b = strength(b.ref, a.ref.beta()) * a.ref.particle.charge * elementary_charge;
  const auto slices = static_cast<std::size_t>(o.slices);
  const bool gridded = o.cells[0] != 0 || o.cells[1] != 0;
  std::optional<fields::open_solver_2d> solver;
  if (gridded) {
    for (const std::size_t n : o.cells) {
      require(n >= 8 && n <= 4096, "cells", static_cast<double>(n), "8 ... 4096");
    }
    solver.emplace(o.cells);
  }
  mesh_field::points at_first, at_second;
  // slices i and k meet at the time of (sigma_i + sigma_k)/2: heads first, by i + k; those of one sum are disjoint
  for (std::size_t sum = 0; sum < 2 * slices - 1; ++sum) {
    for (std::size_t i = sum < slices ? 0 : sum - slices + 1; i <= std::min(sum, slices - 1); ++i) {
      const std::size_t k = sum - i;
      if (first.border[i] == first.border[i + 1] || second.border[k] == second.border[k + 1])
        continue;
      const slice_of of_second = seen(second, k, unit_a, "second", !gridded);
      const slice_of of_first = seen(first, i, unit_b, "first", !gridded);
      if (gridded) {
        encounter(first, i, of_second.sigma, at_first);
        encounter(second, k, of_first.sigma, at_second);
        const mesh_field by_second(*solver, o.cells, at_second,
                                   second.weight.data() + second.border[k], at_first);
        const mesh_field by_first(*solver, o.cells, at_first, first.weight.data() + first.border[i],
                                  at_second);
        kick(first, i, of_second, unit_a, by_second, at_first, threads);
        kick(second, k, of_first, unit_b, by_first, at_second, threads);
        continue;
      }
      kick(first, i, of_second, threads);
      kick(second, k, of_first, threads);
    }
  }
  put_back(a, first, frame_a);
  put_back(b, second, frame_b);
}

}  // namespace betatron::collective
