#include "collective/space_charge_2d.h"

#include <algorithm>
#include <cmath>
#include <complex>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "beam/text.h"
#include "collective/line_pull.h"
#include "collective/slice_profile.h"
#include "collective/space_charge.h"
#include "collective/strength.h"
#include "collective/thinnest_cell.h"
#include "numerics/pack.h"
#include "numerics/parallel.h"

namespace betatron::collective {

namespace {

/// Cells between a particle and the edge of the grid.
constexpr std::size_t mesh_margin = 3;

const char* name_of(plane_model m) {
  return m == plane_model::beam ? "SpaceCharge2D" : "SpaceCharge2p5D";
}

/// Place of a particle on one axis of the grid: first node, and the weights of Order + 1 nodes, B-splines (Hockney and
/// Eastwood, sec. 5-3).
template <int Order>
struct share {
  std::size_t first;
  double weight[Order + 1];
  double distance;  // from the node that it falls to

  explicit share(double u) {
    if constexpr (Order == 1) {
      first = static_cast<std::size_t>(u);
      const double d = distance = u - static_cast<double>(first);
      weight[0] = 1 - d;
      weight[1] = d;
    } else if constexpr (Order == 2) {
      const auto i = static_cast<std::size_t>(u + 0.5);
      const double d = distance = u - static_cast<double>(i);
      first = i - 1;
      weight[0] = 0.5 * (0.5 - d) * (0.5 - d);
      weight[1] = 0.75 - d * d;
      weight[2] = 0.5 * (0.5 + d) * (0.5 + d);
    } else {
      const auto i = static_cast<std::size_t>(u);
      const double d = distance = u - static_cast<double>(i), e = 1 - d;
      first = i - 1;
      weight[0] = e * e * e / 6;
      weight[1] = 2.0 / 3 - d * d * (1 - d / 2);
      weight[2] = 2.0 / 3 - e * e * (1 - e / 2);
      weight[3] = d * d * d / 6;
    }
  }
};

/// The derivatives of the weights by u.
template <int Order>
struct share_slope {
  double weight[Order + 1];

  explicit share_slope(const share<Order>& s) {
    if constexpr (Order == 1) {
      weight[0] = -1;
      weight[1] = 1;
    } else if constexpr (Order == 2) {
      const double d = s.distance;
      weight[0] = d - 0.5;
      weight[1] = -2 * d;
      weight[2] = d + 0.5;
    } else {
      const double d = s.distance, e = 1 - d;
      weight[0] = -0.5 * e * e;
      weight[1] = d * (1.5 * d - 2);
      weight[2] = e * (2 - 1.5 * e);
      weight[3] = 0.5 * d * d;
    }
  }
};

/// f with the order of the shape as a constant.
template <class Function>
void with_order(int order, Function&& f) {
  if (order == 1) {
    f(std::integral_constant<int, 1>{});
  } else if (order == 2) {
    f(std::integral_constant<int, 2>{});
  } else {
    f(std::integral_constant<int, 3>{});
  }
}

/// Where the grid lies.
struct frame {
  std::array<double, 2> origin{}, edges{};
  std::array<std::size_t, 2> nodes{};
};

/// Places on one axis.
template <int Order>
class ruler {
 public:
  ruler(const frame& at, std::size_t axis)
      : origin_(at.origin[axis]),
        inverse_(1 / at.edges[axis]),
        low_(static_cast<double>(mesh_margin)),
        high_(static_cast<double>(at.nodes[axis] - 1 - mesh_margin)) {}

  share<Order> operator()(double x) const {
    return share<Order>(std::clamp((x - origin_) * inverse_, low_, high_));
  }

 private:
  double origin_, inverse_, low_, high_;
};

/// Four numbers that are worked on together: u and its negative gradient at a node, and nothing.
using node_field = numerics::pack<double, 4, numerics::isa::base>;

/// Parts of the deposition. The number depends on nothing but those of particles and nodes.
std::size_t deposit_parts(std::size_t particles, std::size_t nodes) {
  return std::clamp<std::size_t>(particles / (2 * nodes), 1, 16);
}

/// The charge of all particles on the grid, 1 in total. Summed in parts, then in order: the same for
/// any number of threads.
template <int Order, class F>
void deposit(const beam::columns<const F>& c, double total, const frame& at,
             fields::grid<double>& charge, unsigned threads) {
  const std::size_t nodes = at.nodes[0] * at.nodes[1];
  const std::size_t parts = deposit_parts(c.size, nodes);
  const double share_of_one = 1 / total;
  std::vector<std::vector<double>> sums(parts);
  const ruler<Order> along_x(at, 0), along_y(at, 1);
  numerics::parallel_for(threads, parts, [&](std::size_t part) {
    std::vector<double>& sum = sums[part];
    sum.assign(nodes, 0);
    const std::size_t end = c.size * (part + 1) / parts;
    for (std::size_t k = c.size * part / parts; k < end; ++k) {
      const auto x = along_x(static_cast<double>(c.z[0][k])),
                 y = along_y(static_cast<double>(c.z[2][k]));
      const double w = static_cast<double>(c.weight[k]) * share_of_one;
      double* row = sum.data() + y.first * at.nodes[0] + x.first;
      for (int j = 0; j <= Order; ++j, row += at.nodes[0]) {
        const double v = w * y.weight[j];
        for (int i = 0; i <= Order; ++i) row[i] += v * x.weight[i];
      }
    }
  });
  for (std::size_t j = 0; j < at.nodes[1]; ++j) {
    for (std::size_t i = 0; i < at.nodes[0]; ++i) {
      double sum = 0;
      for (const std::vector<double>& part : sums) sum += part[j * at.nodes[0] + i];
      charge.at(i, j, 0) = sum;
    }
  }
}

std::vector<node_field> differentiate(const fields::grid<double>& u, const frame& at) {
  std::vector<node_field> field(at.nodes[0] * at.nodes[1], node_field(0.0));
  for (std::size_t j = 1; j + 1 < at.nodes[1]; ++j) {
    for (std::size_t i = 1; i + 1 < at.nodes[0]; ++i) {
      node_field& here = field[j * at.nodes[0] + i];
      here.set(0, u.at(i, j, 0));
      here.set(1, (u.at(i - 1, j, 0) - u.at(i + 1, j, 0)) / (2 * at.edges[0]));
      here.set(2, (u.at(i, j - 1, 0) - u.at(i, j + 1, 0)) / (2 * at.edges[1]));
    }
  }
  return field;
}

/// The images in a round pipe: sum over m of conj(M_m) (z/a)^m/m and its derivative, see the header.
class round_images {
 public:
  /// For particles up to this part of the radius `a` [m]; weights are divided by `total`.
  template <class F>
  round_images(const beam::columns<const F>& c, double total, double a, double reach,
               unsigned threads)
      : inverse_(1 / a) {
    // (reach^2)^terms is below the error of any grid; particles next to the wall get what most_terms can do
    constexpr double negligible = 1e-12;
    constexpr std::size_t most_terms = 400;
    const double needed = reach < 1 ? std::log(negligible) / (2 * std::log(reach)) : most_terms;
    terms_ = static_cast<std::size_t>(std::clamp(needed, 4.0, static_cast<double>(most_terms)));
    const std::size_t parts = std::clamp<std::size_t>(c.size / 16384, 1, 64);
    std::vector<std::vector<std::complex<double>>> sums(parts);
    numerics::parallel_for(threads, parts, [&](std::size_t part) {
      sums[part].assign(terms_, 0);
      const std::size_t end = c.size * (part + 1) / parts;
      for (std::size_t first = c.size * part / parts; first < end; first += lanes) {
        block z, power{};
        for (std::size_t l = 0; l < std::min(lanes, end - first); ++l) {
          z.re[l] = static_cast<double>(c.z[0][first + l]) * inverse_;
          z.im[l] = static_cast<double>(c.z[2][first + l]) * inverse_;
          power.re[l] = static_cast<double>(c.weight[first + l]) / total;
        }
        for (std::size_t m = 0; m < terms_; ++m) {
          double re = 0, im = 0;
          for (std::size_t l = 0; l < lanes; ++l) {
            const double next = power.re[l] * z.re[l] - power.im[l] * z.im[l];
            power.im[l] = power.re[l] * z.im[l] + power.im[l] * z.re[l];
            power.re[l] = next;
            re += next;
            im += power.im[l];
          }
          sums[part][m] += std::complex<double>(re, im);
        }
      }
    });
    moments_.assign(terms_, 0);
    for (const auto& sum : sums) {
      for (std::size_t m = 0; m < terms_; ++m) moments_[m] += std::conj(sum[m]);
    }
  }

  struct field {
    double u, x, y;  ///< without the constant ln a
  };
  field at(double x, double y) const {
    const std::complex<double> z(x * inverse_, y * inverse_);
    double re = 0, im = 0, slope_re = 0, slope_im = 0;  // Horner, written out: no NaN checks
    for (std::size_t m = terms_; m-- > 0;) {
      const std::complex<double> c = moments_[m] / static_cast<double>(m + 1);
      const double r = re * z.real() - im * z.imag() + c.real();
      im = re * z.imag() + im * z.real() + c.imag();
      re = r;
      const double s = slope_re * z.real() - slope_im * z.imag() + moments_[m].real();
      slope_im = slope_re * z.imag() + slope_im * z.real() + moments_[m].imag();
      slope_re = s;
    }
    return {-(re * z.real() - im * z.imag()), slope_re * inverse_, -slope_im * inverse_};
  }

 private:
  static constexpr std::size_t lanes = 16;
  struct block {
    std::array<double, lanes> re{}, im{};
  };
  double inverse_;
  std::size_t terms_;
  std::vector<std::complex<double>> moments_{};  // conjugate
};

template <class F>
void add(F& column, double kick) {
  column = static_cast<F>(static_cast<double>(column) + kick);
}

/// act(particle, u, e_x, e_y there) for all particles.
template <int Order, class F, class Act>
void gather(const beam::columns<F>& c, const std::vector<node_field>& field, const frame& at,
            unsigned threads, const Act& act) {
  constexpr std::size_t chunk = 8192;
  const ruler<Order> along_x(at, 0), along_y(at, 1);
  numerics::parallel_for(threads, (c.size + chunk - 1) / chunk, [&](std::size_t part) {
    const std::size_t end = std::min(c.size, (part + 1) * chunk);
    for (std::size_t k = part * chunk; k < end; ++k) {
      const auto x = along_x(static_cast<double>(c.z[0][k])),
                 y = along_y(static_cast<double>(c.z[2][k]));
      node_field sum(0.0);
      const node_field* row = field.data() + y.first * at.nodes[0] + x.first;
      for (int j = 0; j <= Order; ++j, row += at.nodes[0]) {
        node_field inner = node_field(x.weight[0]) * row[0];
        for (int i = 1; i <= Order; ++i) inner += node_field(x.weight[i]) * row[i];
        sum += node_field(y.weight[j]) * inner;
      }
      act(k, sum[0], sum[1], sum[2]);
    }
  });
}

}  // namespace

double slice_scale(double beta_gamma, double sigma_t) {
  constexpr double euler_gamma = 0.57721566490153286061;
  constexpr double digamma_3_2 = 0.03648997397857652056;
  return 2 * std::exp(-euler_gamma - digamma_3_2 / 2) * beta_gamma * sigma_t;
}

space_charge_2d::space_charge_2d(const space_charge_2d_options& o) : options_(o) {
  const auto refuse = [&](const std::string& what, const std::string& allowed) {
    throw std::invalid_argument(std::string(name_of(o.model)) + ": " + what +
                                " is not allowed; allowed: " + allowed);
  };
  for (const std::size_t n : o.cells) {
    if (n < 8 || n > 4096) refuse("cells = " + std::to_string(n), "8 to 4096 along each axis");
  }
  if (o.shape < 1 || o.shape > 3) refuse("shape = " + std::to_string(o.shape), "1, 2, 3");
  if (!(o.margin >= 1 && o.margin <= 100)) {
    refuse("margin = " + beam::number_text(o.margin), ">= 1 and <= 100");
  }
  if (o.model == plane_model::beam) {
    if (!o.current) refuse("a beam without a current", "a current [A]");
    if (!std::isfinite(*o.current)) {
      refuse("current = " + beam::number_text(*o.current) + " A", "finite");
    }
  }
  check(o.density, name_of(o.model));
  if (o.pipe) check(*o.pipe, name_of(o.model));
  if (o.scale && !(*o.scale > 0 && std::isfinite(*o.scale))) {
    refuse("longitudinal_scale = " + beam::number_text(*o.scale) + " m", "> 0 and finite");
  }
}

double space_charge_2d::memory(std::size_t particles) const {
  const std::size_t nodes = options_.cells[0] * options_.cells[1];
  const double sums = 8.0 * static_cast<double>(deposit_parts(particles, nodes));
  const double solver = options_.pipe && !options_.pipe->round
                            ? fields::pipe_solver_2d::memory(options_.cells)
                            : fields::open_solver_2d::memory(options_.cells);
  return solver + static_cast<double>(nodes) * (sums + sizeof(node_field));
}

void space_charge_2d::check_memory(std::size_t particles) const {
  const double needed = memory(particles), there = available_memory();
  if (needed <= there) return;
  throw std::invalid_argument(
      std::string(name_of(options_.model)) + ": a grid of " + std::to_string(options_.cells[0]) +
      " x " + std::to_string(options_.cells[1]) + " cells needs " + beam::number_text(needed) +
      " bytes of memory; allowed: " + beam::number_text(there));
}

namespace {

constexpr std::array<std::size_t, 3> used = {0, 2, 4};  // coordinates

/// The grid for a beam, and how it follows its extent.
struct fitted {
  frame at;
  std::array<double, 2> growth{};  // of the edges by the extent; 0: they do not follow
  double reach = 0;                // in a round pipe: of the particles, over the radius
};

/// None where there is nothing to do. Throws as kick.
std::optional<fitted> fit(const space_charge_2d_options& o, const beam::bunch& b,
                          const beam::moments& m, unsigned threads) {
  if (!(m.weight != 0)) return {};
  for (std::size_t axis = 0; axis < (o.model == plane_model::slices ? 3u : 2u); ++axis) {
    const std::size_t i = used[axis];
    if (!std::isfinite(m.max[i] - m.min[i]) || !std::isfinite(m.mean[i])) {
      b.check_finite();
      throw std::invalid_argument(std::string(name_of(o.model)) + ": the extent of the beam in " +
                                  beam::column_names[i] + " is not finite");
    }
  }
  if (o.model == plane_model::slices && !has_slices(b, name_of(o.model))) return {};

  fitted f;
  const bool walls = o.pipe && !o.pipe->round;
  const bool round = o.pipe && o.pipe->round;
  if (o.pipe) check_inside(*o.pipe, name_of(o.model), b, threads);
  if (round) f.reach = largest_radius(b, threads) / o.pipe->half_width;

  frame& at = f.at;
  at.nodes = o.cells;
  const double epsilon = b.precision() == beam::precision::single
                             ? static_cast<double>(std::numeric_limits<float>::epsilon())
                             : std::numeric_limits<double>::epsilon();
  for (std::size_t axis = 0; axis < 2; ++axis) {
    const std::size_t i = used[axis];
    if (walls) {
      const double wall = axis == 0 ? o.pipe->half_width : o.pipe->half_height;
      const std::size_t cells = fields::pipe_cells(o.cells[axis]);
      at.nodes[axis] = cells + 2 * mesh_margin + 1;
      at.edges[axis] = 2 * wall / static_cast<double>(cells);
      at.origin[axis] = -wall - static_cast<double>(mesh_margin) * at.edges[axis];
      continue;
    }
    const double cells = static_cast<double>(at.nodes[axis] - 1 - 2 * mesh_margin);
    // not finer than the coordinates themselves
    const double resolved = epsilon * std::max(std::fabs(m.min[i]), std::fabs(m.max[i]));
    const double size = (m.max[i] - m.min[i]) * o.margin * (1 + 1e-9);
    at.edges[axis] = size > 0 ? std::max(size / cells, resolved) : 0;
    if (at.edges[axis] > resolved) f.growth[axis] = o.margin * (1 + 1e-9) / cells;
  }
  const double longest = std::max(at.edges[0], at.edges[1]);
  if (longest == 0 && !round) return {};
  const double thinnest =
      o.model == plane_model::beam
          ? std::max(thinnest_of_current, thinnest_cell * longest)
          : thinnest_cell * std::max(longest, b.ref.beta_gamma() * (m.max[4] - m.min[4]) /
                                                  static_cast<double>(o.density.bins));
  for (std::size_t axis = 0; !walls && axis < 2; ++axis) {
    const std::size_t i = used[axis];
    // all at one place in a round pipe feel their images only: any cell does
    if (longest == 0) at.edges[axis] = o.pipe->half_width;
    if (at.edges[axis] < thinnest) {
      at.edges[axis] = thinnest;
      f.growth[axis] = 0;
    }
    at.origin[axis] = m.min[i] + (m.max[i] - m.min[i]) / 2 -
                      at.edges[axis] * static_cast<double>(at.nodes[axis] - 1) / 2;
  }
  return f;
}

}  // namespace

void space_charge_2d::kick(beam::bunch& b, double length, unsigned threads) {
  const bool alone = options_.pipe && options_.model == plane_model::beam;  // feels its image
  if (b.size() < (alone ? 1 : 2) || length == 0) return;
  const beam::moments m = b.moments(threads);
  const std::optional<fitted> grid = fit(options_, b, m, threads);
  if (!grid) return;
  const frame& at = grid->at;
  const bool walls = options_.pipe && !options_.pipe->round;
  const bool round = options_.pipe && options_.pipe->round;

  const double bg = b.ref.beta_gamma();
  const double unit = 2 * classical_radius(b.ref.particle) * length / (bg * bg * bg);
  std::vector<node_field> field;
  b.visit([&]<class F>(const beam::columns<F>& c) {
    {
      std::lock_guard lock(busy_);
      fields::grid<double> mesh({at.nodes[0], at.nodes[1], 2});
      mesh.clear(threads);
      with_order(options_.shape, [&](auto order) {
        deposit<decltype(order)::value, F>(c, m.weight, at, mesh, threads);
      });
      const auto solve = [&](auto& solver) {
        if (!solver) solver.emplace(at.nodes);
        solver->set_cells(at.edges);
        solver->solve(mesh);
      };
      if (walls) {
        solve(pipe_);
      } else {
        solve(solver_);
      }
      field = differentiate(mesh, at);
    }
    std::optional<round_images> images;
    if (round) {
      images.emplace(beam::columns<const F>(c), m.weight, options_.pipe->half_width, grid->reach,
                     threads);
    }
    // the images of a round pipe come to what the grid gives
    const auto with_images = [&](std::size_t k, const round_images::field& plain) {
      if (!images) return plain;
      const auto image = images->at(static_cast<double>(c.z[0][k]), static_cast<double>(c.z[2][k]));
      return round_images::field{plain.u + image.u, plain.x + image.x, plain.y + image.y};
    };
    if (options_.model == plane_model::beam) {
      const double f = unit * density_of_current(*options_.current, b.ref.particle);
      with_order(options_.shape, [&](auto order) {
        gather<decltype(order)::value>(c, field, at, threads,
                                       [&](std::size_t k, double u, double ex, double ey) {
                                         const auto e = with_images(k, {u, ex, ey});
                                         add(c.z[1][k], f * e.x);
                                         add(c.z[3][k], f * e.y);
                                       });
      });
      return;
    }
    const slice_profile density(b, options_.density, name_of(options_.model), threads);
    // where u is 0: on the wall, which the solver of a rectangular pipe knows itself
    const double scale = walls            ? 1
                         : round          ? options_.pipe->half_width
                         : options_.scale ? *options_.scale
                                          : slice_scale(bg, m.sigma(4));
    const double logarithm = std::log(scale);
    const auto act = [&](std::size_t k, double u, double ex, double ey) {
      const slice_profile::local line = density.at(static_cast<double>(c.z[4][k]));
      const auto e = with_images(k, {u, ex, ey});
      add(c.z[1][k], unit * line.value * e.x);
      add(c.z[3][k], unit * line.value * e.y);
      if (options_.longitudinal) add(c.z[5][k], -unit * line.slope * (logarithm + e.u));
    };
    with_order(options_.shape,
               [&](auto order) { gather<decltype(order)::value>(c, field, at, threads, act); });
  });
}

/// By the numbers that a particle sees: e_x, e_y and u; and its share of the charge.
using node_pull = numerics::pack<double, 4, numerics::isa::base>;

tracking::kick_slopes space_charge_2d::pull(beam::bunch& b, const tracking::covector& lambda,
                                            double length, unsigned threads) {
  tracking::kick_slopes slopes;
  if (b.size() < 2) return slopes;
  const beam::moments m = b.moments(threads);
  const std::optional<fitted> grid = fit(options_, b, m, threads);
  if (!grid) return slopes;
  const frame& at = grid->at;
  const std::size_t nx = at.nodes[0], ny = at.nodes[1], nodes = nx * ny;
  const std::size_t size = b.size();
  const bool slices = options_.model == plane_model::slices;
  const bool longitudinal = slices && options_.longitudinal;
  const double bg = b.ref.beta_gamma();
  const double per_length = 2 * classical_radius(b.ref.particle) / (bg * bg * bg);
  const double unit = per_length * length;
  std::optional<slice_profile> density;
  if (slices) density.emplace(b, options_.density, name_of(options_.model), threads);
  const double constant =
      slices ? 0 : density_of_current(*options_.current, b.ref.particle) * per_length;
  const double logarithm =
      slices ? std::log(options_.scale ? *options_.scale : slice_scale(bg, m.sigma(4))) : 0;

  b.visit([&]<class F>(const beam::columns<F>& c) {
    const std::array<F*, 6>& by = lambda.of<F>();
    const auto add_to = [](F& to, double v) { to = static_cast<F>(static_cast<double>(to) + v); };
    // all per length of the kick, so that its own derivative is there for a length of 0, too
    const auto pulls = [&](std::size_t k) {
      double f = constant, g = 0;
      if (slices) {
        const slice_profile::local line = density->at(static_cast<double>(c.z[4][k]));
        f = per_length * line.value;
        if (longitudinal) g = -per_length * line.slope;
      }
      node_pull v(0.0);
      v.set(0, f * static_cast<double>(by[1][k]));
      v.set(1, f * static_cast<double>(by[3][k]));
      v.set(2, g * static_cast<double>(by[5][k]));
      v.set(3, static_cast<double>(c.weight[k]) / m.weight);
      return v;
    };
    with_order(options_.shape, [&](auto order) {
      constexpr int n = decltype(order)::value;
      const ruler<n> along_x(at, 0), along_y(at, 1);
      const std::size_t parts = std::clamp<std::size_t>(size / (2 * nodes), 1, 16);
      std::vector<std::vector<node_pull>> sums(parts);
      numerics::parallel_for(threads, parts, [&](std::size_t part) {
        sums[part].assign(nodes, node_pull(0.0));
        const std::size_t end = size * (part + 1) / parts;
        for (std::size_t k = size * part / parts; k < end; ++k) {
          const auto x = along_x(static_cast<double>(c.z[0][k])),
                     y = along_y(static_cast<double>(c.z[2][k]));
          const node_pull v = pulls(k);
          node_pull* row = sums[part].data() + y.first * nx + x.first;
          for (int j = 0; j <= n; ++j, row += nx) {
            for (int i = 0; i <= n; ++i) row[i] += v * node_pull(x.weight[i] * y.weight[j]);
          }
        }
      });
      for (std::size_t k = 0; k < nodes; ++k) {
        for (std::size_t part = 1; part < parts; ++part) sums[0][k] += sums[part][k];
      }
      const std::vector<node_pull>& sum = sums[0];

      fields::grid<double> charge({nx, ny, 2}), dual({nx, ny, 2}), turned;
      charge.clear(threads);
      dual.clear(threads);
      double total = 0;  // of the dual charges
      for (std::size_t j = 1; j + 1 < ny; ++j) {
        for (std::size_t i = 1; i + 1 < nx; ++i) {
          const node_pull* here = sum.data() + j * nx + i;
          charge.at(i, j, 0) = here[0][3];
          dual.at(i, j, 0) = here[0][2] + (here[1][0] - here[-1][0]) / (2 * at.edges[0]) +
                             ((here + nx)[0][1] - (here - nx)[0][1]) / (2 * at.edges[1]);
          total += dual.at(i, j, 0);
        }
      }
      double by_ratio = 0;
      std::vector<node_field> field;
      {
        std::lock_guard lock(busy_);
        fields::open_solver_2d by_shape(options_.cells);
        by_shape.set_cells(at.edges, true);
        turned = charge.copy();
        by_shape.solve(turned);
        for (std::size_t j = 0; j < ny; ++j) {
          for (std::size_t i = 0; i < nx; ++i) by_ratio += dual.at(i, j, 0) * turned.at(i, j, 0);
        }
        if (!solver_) solver_.emplace(options_.cells);
        solver_->set_cells(at.edges);
        solver_->solve(charge);
        solver_->solve(dual);
        field = differentiate(charge, at);
      }
      for (std::size_t j = 1; j + 1 < ny; ++j) {
        for (std::size_t i = 1; i + 1 < nx; ++i) field[j * nx + i].set(3, dual.at(i, j, 0));
      }

      struct partial {
        std::array<double, 2> slope{}, moment{}, work{};
        double longitudinal = 0, by_logarithm = 0;
      };
      constexpr std::size_t chunk = 8192;
      std::vector<partial> collected((size + chunk - 1) / chunk);
      std::vector<double> by_value(slices ? size : 0), by_slope(longitudinal ? size : 0);
      numerics::parallel_for(threads, collected.size(), [&](std::size_t part) {
        partial own;
        const std::size_t end = std::min(size, (part + 1) * chunk);
        for (std::size_t k = part * chunk; k < end; ++k) {
          const auto x = along_x(static_cast<double>(c.z[0][k])),
                     y = along_y(static_cast<double>(c.z[2][k]));
          const share_slope<n> dx(x), dy(y);
          node_field seen(0.0), by_x(0.0), by_y(0.0);
          const node_field* row = field.data() + y.first * nx + x.first;
          for (int j = 0; j <= n; ++j, row += nx) {
            node_field plain(0.0), sloped(0.0);
            for (int i = 0; i <= n; ++i) {
              plain += node_field(x.weight[i]) * row[i];
              sloped += node_field(dx.weight[i]) * row[i];
            }
            seen += node_field(y.weight[j]) * plain;
            by_x += node_field(y.weight[j]) * sloped;
            by_y += node_field(dy.weight[j]) * plain;
          }
          const node_pull v = pulls(k);
          const auto slope = [&](const node_field& d) {
            return v[0] * d[1] + v[1] * d[2] + v[2] * d[0] + v[3] * d[3];
          };
          const double nu[2] = {slope(by_x), slope(by_y)};
          for (std::size_t a = 0; a < 2; ++a) {
            const std::size_t q = used[a];
            const double place = (static_cast<double>(c.z[q][k]) - at.origin[a]) / at.edges[a];
            own.slope[a] += nu[a];
            own.moment[a] += nu[a] * (place - static_cast<double>(at.nodes[a] - 1) / 2);
            own.work[a] += v[static_cast<int>(a)] * seen[static_cast<int>(a) + 1];
            if (grid->growth[a] != 0) add_to(by[q][k], length * nu[a] / at.edges[a]);
          }
          own.longitudinal += v[2] * (logarithm + seen[0]);
          own.by_logarithm += v[2];
          // the derivatives by the density seen; and the way back
          double f = length * constant;
          if (slices) {
            const slice_profile::local line = density->at(static_cast<double>(c.z[4][k]));
            f = unit * line.value;
            by_value[k] = unit * (static_cast<double>(by[1][k]) * seen[1] +
                                  static_cast<double>(by[3][k]) * seen[2]);
            if (longitudinal) {
              by_slope[k] = -unit * static_cast<double>(by[5][k]) * (logarithm + seen[0]);
              add(c.z[5][k], unit * line.slope * (logarithm + seen[0]));
            }
          }
          add(c.z[1][k], -f * seen[1]);
          add(c.z[3][k], -f * seen[2]);
        }
        collected[part] = own;
      });
      partial all;
      for (const partial& p : collected) {
        for (std::size_t a = 0; a < 2; ++a) {
          all.slope[a] += p.slope[a];
          all.moment[a] += p.moment[a];
          all.work[a] += p.work[a];
        }
        all.longitudinal += p.longitudinal;
        all.by_logarithm += p.by_logarithm;
      }
      const double ratio = at.edges[1] / at.edges[0];
      const double of_green[2] = {-(by_ratio * ratio + total) / at.edges[0],
                                  by_ratio / at.edges[0]};
      for (std::size_t a = 0; a < 2; ++a) {
        if (grid->growth[a] == 0) continue;
        const F* column = c.z[used[a]];
        const auto low = static_cast<std::size_t>(std::min_element(column, column + size) - column);
        const auto high =
            static_cast<std::size_t>(std::max_element(column, column + size) - column);
        const double edge =
            (of_green[a] - (all.moment[a] + all.work[a]) / at.edges[a]) * grid->growth[a];
        const double middle = -0.5 * all.slope[a] / at.edges[a];
        add_to(by[used[a]][low], length * (middle - edge));
        add_to(by[used[a]][high], length * (middle + edge));
      }
      slopes.length = all.work[0] + all.work[1] + all.longitudinal;
      const double work = length * slopes.length;
      const double by_log_bg = -3 * work + (options_.scale ? 0 : length * all.by_logarithm);
      slopes.kinetic = by_log_bg * b.ref.gamma() / (bg * bg);
      if (!slices) return;
      slopes.charge = work;

      pull_profile(b, lambda, *density, options_.density, by_value, by_slope, threads);
      if (longitudinal && !options_.scale) {
        pull_sigma_t(b, lambda, m, length * all.by_logarithm);
      }
    });
  });
  return slopes;
}

tracking::effect effect_of(std::shared_ptr<space_charge_2d> solver) {
  tracking::effect e;
  e.name = name_of(solver->options().model);
  e.order = solver->options().order;
  e.spacing = solver->options().spacing;
  e.reversible = true;
  e.begin = [solver](const lattice::line&, const beam::bunch& b, lattice::direction) {
    solver->check_memory(b.size());
    if (solver->options().model == plane_model::slices) {
      has_slices(b, name_of(plane_model::slices));
    }
  };
  if (solver->options().pipe) {
    e.met_wall = [pipe = *solver->options().pipe](const beam::bunch& b, unsigned threads) {
      return outside(pipe, b, threads);
    };
    e.no_pull = "stands in a conducting pipe";
  } else {
    e.pull = [solver](beam::bunch& b, const tracking::covector& lambda,
                      const tracking::kick_place& place) {
      return solver->pull(b, lambda, place.length, place.threads);
    };
  }
  e.kick = [solver = std::move(solver)](beam::bunch& b, const tracking::kick_place& place) {
    solver->kick(b, place.length, place.threads);
  };
  return e;
}

}  // namespace betatron::collective
