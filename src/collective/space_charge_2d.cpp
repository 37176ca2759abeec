#include "collective/space_charge_2d.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "beam/text.h"
#include "collective/slice_profile.h"
#include "collective/strength.h"
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

/// Place of a particle on one axis of the grid: first node, and the weights of order + 1 nodes, B-splines (Hockney and
/// Eastwood, sec. 5-3).
struct share {
  std::size_t first;
  double weight[4];
};

share share_of(int order, double u) {
  share s{};
  if (order == 1) {
    s.first = static_cast<std::size_t>(u);
    const double d = u - static_cast<double>(s.first);
    s.weight[0] = 1 - d;
    s.weight[1] = d;
  } else if (order == 2) {
    const auto i = static_cast<std::size_t>(u + 0.5);
    const double d = u - static_cast<double>(i);
    s.first = i - 1;
    s.weight[0] = 0.5 * (0.5 - d) * (0.5 - d);
    s.weight[1] = 0.75 - d * d;
    s.weight[2] = 0.5 * (0.5 + d) * (0.5 + d);
  } else {
    const auto i = static_cast<std::size_t>(u);
    const double d = u - static_cast<double>(i), e = 1 - d;
    s.first = i - 1;
    s.weight[0] = e * e * e / 6;
    s.weight[1] = 2.0 / 3 - d * d * (1 - d / 2);
    s.weight[2] = 2.0 / 3 - e * e * (1 - e / 2);
    s.weight[3] = d * d * d / 6;
  }
  return s;
}

/// Where the grid lies.
struct frame {
  std::array<double, 2> origin{}, edges{};
  std::array<std::size_t, 2> nodes{};
  int order = 2;

  share along(std::size_t axis, double x) const {
    const double low = static_cast<double>(mesh_margin),
                 high = static_cast<double>(nodes[axis] - 1 - mesh_margin);
    return share_of(order, std::clamp((x - origin[axis]) / edges[axis], low, high));
  }
};

/// u and its negative gradient at a node.
struct node_field {
  double u, ex, ey;
};

/// The charge of all particles on the grid, 1 in total. Summed in parts whose number depends on nothing but the numbers
/// of particles and nodes, then in order: the same for any number of threads.
template <class F>
void deposit(const beam::columns<const F>& c, double total, const frame& at,
             fields::grid<double>& charge, unsigned threads) {
  const std::size_t nodes = at.nodes[0] * at.nodes[1];
  const std::size_t parts = std::clamp<std::size_t>(c.size / (2 * nodes), 1, 16);
  std::vector<std::vector<double>> sums(parts);
  const auto n = static_cast<std::size_t>(at.order) + 1;
  numerics::parallel_for(threads, parts, [&](std::size_t part) {
    std::vector<double>& sum = sums[part];
    sum.assign(nodes, 0);
    const std::size_t end = c.size * (part + 1) / parts;
    for (std::size_t k = c.size * part / parts; k < end; ++k) {
      const share x = at.along(0, static_cast<double>(c.z[0][k])),
                  y = at.along(1, static_cast<double>(c.z[2][k]));
      const double w = static_cast<double>(c.weight[k]) / total;
      for (std::size_t j = 0; j < n; ++j) {
        double* row = sum.data() + (y.first + j) * at.nodes[0] + x.first;
        const double v = w * y.weight[j];
        for (std::size_t i = 0; i < n; ++i) row[i] += v * x.weight[i];
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
  std::vector<node_field> field(at.nodes[0] * at.nodes[1]);
  for (std::size_t j = 1; j + 1 < at.nodes[1]; ++j) {
    for (std::size_t i = 1; i + 1 < at.nodes[0]; ++i) {
      field[j * at.nodes[0] + i] = {u.at(i, j, 0),
                                    (u.at(i - 1, j, 0) - u.at(i + 1, j, 0)) / (2 * at.edges[0]),
                                    (u.at(i, j - 1, 0) - u.at(i, j + 1, 0)) / (2 * at.edges[1])};
    }
  }
  return field;
}

template <class F>
void add(F& column, double kick) {
  column = static_cast<F>(static_cast<double>(column) + kick);
}

/// Adds strength(particle) times the field, and tilt(particle) times the potential: {px and py, pt}.
template <class F, class Strength>
void gather(const beam::columns<F>& c, const std::vector<node_field>& field, const frame& at,
            unsigned threads, const Strength& strength) {
  constexpr std::size_t chunk = 8192;
  const auto n = static_cast<std::size_t>(at.order) + 1;
  numerics::parallel_for(threads, (c.size + chunk - 1) / chunk, [&](std::size_t part) {
    const std::size_t end = std::min(c.size, (part + 1) * chunk);
    for (std::size_t k = part * chunk; k < end; ++k) {
      const share x = at.along(0, static_cast<double>(c.z[0][k])),
                  y = at.along(1, static_cast<double>(c.z[2][k]));
      node_field here{};
      for (std::size_t j = 0; j < n; ++j) {
        const node_field* row = field.data() + (y.first + j) * at.nodes[0] + x.first;
        for (std::size_t i = 0; i < n; ++i) {
          const double w = y.weight[j] * x.weight[i];
          here.u += w * row[i].u;
          here.ex += w * row[i].ex;
          here.ey += w * row[i].ey;
        }
      }
      strength(k, here);
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
  at.order = options_.shape;
  for (std::size_t axis = 0; axis < 2; ++axis) {
    const std::size_t i = used[axis];
    const double cells = static_cast<double>(at.nodes[axis] - 1 - 2 * mesh_margin);
    // not finer than the coordinates themselves
    const double resolved = 4e-16 * std::max(std::fabs(m.min[i]), std::fabs(m.max[i]));
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
      deposit<F>(c, m.weight, at, mesh, threads);
      solver_->set_cells(at.edges);
      solver_->solve(mesh);
      field = differentiate(mesh, at);
    }
    if (options_.model == plane_model::beam) {
      const double f = unit * density_of_current(*options_.current, b.ref.particle);
      gather(c, field, at, threads, [&](std::size_t k, const node_field& here) {
        add(c.z[1][k], f * here.ex);
        add(c.z[3][k], f * here.ey);
      });
      return;
    }
    const slice_profile density(b, options_.density, name_of(options_.model), threads);
    const double scale = options_.scale ? *options_.scale : slice_scale(bg, m.sigma(4));
    const double logarithm = std::log(scale);
    gather(c, field, at, threads, [&](std::size_t k, const node_field& here) {
      const slice_profile::local line = density.at(static_cast<double>(c.z[4][k]));
      add(c.z[1][k], unit * line.value * here.ex);
      add(c.z[3][k], unit * line.value * here.ey);
      if (options_.longitudinal) add(c.z[5][k], -unit * line.slope * (logarithm + here.u));
    });
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
