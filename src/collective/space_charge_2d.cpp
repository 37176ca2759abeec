#include "collective/space_charge_2d.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "beam/text.h"
#include "collective/slice_profile.h"
#include "collective/strength.h"
#include "numerics/pack.h"
#include "numerics/parallel.h"

namespace betatron::collective {

namespace {

/// Cells between a particle and the edge of the grid.
constexpr std::size_t mesh_margin = 3;

/// Cells are not flatter than this.
constexpr double thinnest = 1e-9;

const char* name_of(plane_model m) {
  return m == plane_model::beam ? "SpaceCharge2D" : "SpaceCharge2p5D";
}

/// Place of a particle on one axis of the grid: first node, and the weights of Order + 1 nodes, B-splines (Hockney and
/// Eastwood, sec. 5-3).
template <int Order>
struct share {
  std::size_t first;
  double weight[Order + 1];

  explicit share(double u) {
    if constexpr (Order == 1) {
      first = static_cast<std::size_t>(u);
      const double d = u - static_cast<double>(first);
      weight[0] = 1 - d;
      weight[1] = d;
    } else if constexpr (Order == 2) {
      const auto i = static_cast<std::size_t>(u + 0.5);
      const double d = u - static_cast<double>(i);
      first = i - 1;
      weight[0] = 0.5 * (0.5 - d) * (0.5 - d);
      weight[1] = 0.75 - d * d;
      weight[2] = 0.5 * (0.5 + d) * (0.5 + d);
    } else {
      const auto i = static_cast<std::size_t>(u);
      const double d = u - static_cast<double>(i), e = 1 - d;
      first = i - 1;
      weight[0] = e * e * e / 6;
      weight[1] = 2.0 / 3 - d * d * (1 - d / 2);
      weight[2] = 2.0 / 3 - e * e * (1 - e / 2);
      weight[3] = d * d * d / 6;
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

/// The charge of all particles on the grid, 1 in total. Summed in parts whose number depends on nothing but the numbers
/// of particles and nodes, then in order: the same for any number of threads.
template <int Order, class F>
void deposit(const beam::columns<const F>& c, double total, const frame& at,
             fields::grid<double>& charge, unsigned threads) {
  const std::size_t nodes = at.nodes[0] * at.nodes[1];
  const std::size_t parts = std::clamp<std::size_t>(c.size / (2 * nodes), 1, 16);
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
  if (o.scale && !(*o.scale > 0 && std::isfinite(*o.scale))) {
    refuse("longitudinal_scale = " + beam::number_text(*o.scale) + " m", "> 0 and finite");
  }
}

double space_charge_2d::memory() const {
  const double nodes =
      static_cast<double>(options_.cells[0]) * static_cast<double>(options_.cells[1]);
  return fields::open_solver_2d::memory(options_.cells) + nodes * (16 * 8 + sizeof(node_field));
}

void space_charge_2d::kick(beam::bunch& b, double length, unsigned threads) {
  if (b.size() < 2 || length == 0) return;
  const beam::moments m = b.moments(threads);
  if (!(m.weight != 0)) return;
  const std::array<std::size_t, 3> used = {0, 2, 4};
  for (std::size_t axis = 0; axis < (options_.model == plane_model::slices ? 3u : 2u); ++axis) {
    const std::size_t i = used[axis];
    if (!std::isfinite(m.max[i] - m.min[i]) || !std::isfinite(m.mean[i])) {
      b.check_finite();
      throw std::invalid_argument(std::string(name_of(options_.model)) +
                                  ": the extent of the beam in " + beam::column_names[i] +
                                  " is not finite");
    }
  }
  if (options_.model == plane_model::slices && !(m.max[4] > m.min[4])) {
    throw std::invalid_argument(
        "SpaceCharge2p5D: all particles have the same t; slices need a bunch with a length");
  }

  frame at;
  at.nodes = options_.cells;
  const double epsilon = b.precision() == beam::precision::single
                             ? static_cast<double>(std::numeric_limits<float>::epsilon())
                             : std::numeric_limits<double>::epsilon();
  for (std::size_t axis = 0; axis < 2; ++axis) {
    const std::size_t i = used[axis];
    const double cells = static_cast<double>(at.nodes[axis] - 1 - 2 * mesh_margin);
    // not finer than the coordinates themselves
    const double resolved = epsilon * std::max(std::fabs(m.min[i]), std::fabs(m.max[i]));
    const double size = (m.max[i] - m.min[i]) * options_.margin * (1 + 1e-9);
    at.edges[axis] = size > 0 ? std::max(size / cells, resolved) : 0;
  }
  const double longest = std::max(at.edges[0], at.edges[1]);
  if (longest == 0) return;
  for (std::size_t axis = 0; axis < 2; ++axis) {
    const std::size_t i = used[axis];
    at.edges[axis] = std::max(at.edges[axis], thinnest * longest);
    at.origin[axis] = m.min[i] + (m.max[i] - m.min[i]) / 2 -
                      at.edges[axis] * static_cast<double>(at.nodes[axis] - 1) / 2;
  }

  const double bg = b.ref.beta_gamma();
  const double unit = 2 * classical_radius(b.ref.particle) * length / (bg * bg * bg);
  std::vector<node_field> field;
  b.visit([&]<class F>(const beam::columns<F>& c) {
    {
      std::lock_guard lock(busy_);
      if (!solver_) solver_.emplace(options_.cells);
      fields::grid<double> mesh({at.nodes[0], at.nodes[1], 2});
      mesh.clear(threads);
      with_order(options_.shape, [&](auto order) {
        deposit<decltype(order)::value, F>(c, m.weight, at, mesh, threads);
      });
      solver_->set_cells(at.edges);
      solver_->solve(mesh);
      field = differentiate(mesh, at);
    }
    if (options_.model == plane_model::beam) {
      const double f = unit * density_of_current(*options_.current, b.ref.particle);
      with_order(options_.shape, [&](auto order) {
        gather<decltype(order)::value>(c, field, at, threads,
                                       [&](std::size_t k, double, double ex, double ey) {
                                         add(c.z[1][k], f * ex);
                                         add(c.z[3][k], f * ey);
                                       });
      });
      return;
    }
    const slice_profile density(b, options_.density, name_of(options_.model), threads);
    const double scale = options_.scale ? *options_.scale : slice_scale(bg, m.sigma(4));
    const double logarithm = std::log(scale);
    const auto act = [&](std::size_t k, double u, double ex, double ey) {
      const slice_profile::local line = density.at(static_cast<double>(c.z[4][k]));
      add(c.z[1][k], unit * line.value * ex);
      add(c.z[3][k], unit * line.value * ey);
      if (options_.longitudinal) add(c.z[5][k], -unit * line.slope * (logarithm + u));
    };
    with_order(options_.shape,
               [&](auto order) { gather<decltype(order)::value>(c, field, at, threads, act); });
  });
}

tracking::effect effect_of(std::shared_ptr<space_charge_2d> solver) {
  tracking::effect e;
  e.name = name_of(solver->options().model);
  e.order = solver->options().order;
  e.spacing = solver->options().spacing;
  e.reversible = true;
  e.kick = [solver = std::move(solver)](beam::bunch& b, const tracking::kick_place& place) {
    solver->kick(b, place.length, place.threads);
  };
  return e;
}

}  // namespace betatron::collective
