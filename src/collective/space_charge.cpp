#include "collective/space_charge.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "beam/text.h"
#include "collective/thinnest_cell.h"
#include "numerics/constants.h"
#include "numerics/parallel.h"
#include "numerics/reduction.h"

namespace betatron::collective {

namespace {

using fields::mesh_margin;

/// Potential of one elementary charge at 1 m [V].
constexpr double volt_metre =
    numerics::constants::elementary_charge /
    (4 * numerics::constants::pi * numerics::constants::vacuum_permittivity);

/// Whether differences of a potential in single precision are good across cells of these edges where the beam is not flat.
/// The error of the force across a cell is epsilon phi/edge. A sheet of long cells has phi ~ force (second longest
/// edge): 3e-7 (second longest/edge) of the force. Across a line of many particles phi ~ force edge, which is good at
/// any length; particles that are few have no such force, and then the edge is to be compared with the longest.
bool single_is_enough(const std::array<double, 3>& edges, const std::array<bool, 3>& flat,
                      std::size_t particles) {
  constexpr double sheet = 1e-3, line = 1e-6, few = 0.1;
  std::array<double, 3> sorted = edges;
  std::ranges::sort(sorted);
  const double least =
      std::max(sheet * sorted[1], (particles < few_particles ? few : line) * sorted[2]);
  for (std::size_t i = 0; i < 3; ++i) {
    if (!flat[i] && edges[i] < least) return false;
  }
  return true;
}

template <class From, class To>
void convert(const From* from, std::size_t count, To* to, unsigned threads) {
  constexpr std::size_t chunk = 1 << 16;
  numerics::parallel_for(threads, (count + chunk - 1) / chunk, [&](std::size_t part) {
    const std::size_t first = part * chunk, last = std::min(count, first + chunk);
    std::transform(from + first, from + last, to + first,
                   [](From v) { return static_cast<To>(v); });
  });
}

/// The columns of a beam that a kick reads or writes, in double precision.
class wide_columns {
 public:
  wide_columns(const beam::columns<const float>& c, unsigned threads)
      : data_(7 * c.size), threads_(threads) {
    columns_.size = c.size;
    for (std::size_t i = 0; i < 7; ++i) {
      double*& to = i < 6 ? columns_.z[i] : columns_.weight;
      to = data_.data() + i * c.size;
      convert(i < 6 ? c.z[i] : c.weight, c.size, to, threads);
    }
  }
  const beam::columns<double>& columns() const { return columns_; }

  /// Column i in single precision.
  void put(std::size_t i, float* to) const { convert(columns_.z[i], columns_.size, to, threads_); }
  void put_momenta(const beam::columns<float>& c) const {
    for (std::size_t i = 1; i < 6; i += 2) put(i, c.z[i]);
  }

 private:
  fields::huge_array<double> data_;
  unsigned threads_;
  beam::columns<double> columns_{};
};

[[noreturn]] void refuse(const std::string& what, const std::string& value,
                         const std::string& allowed) {
  throw std::invalid_argument("space charge: " + what + " = " + value +
                              " is not allowed; allowed: " + allowed);
}

void check(const space_charge_3d_options& o) {
  for (std::size_t n : o.cells) {
    if (n < 8 || n > 4096) refuse("cells", std::to_string(n), "8 to 4096 along each axis");
  }
  if (o.shape < 1 || o.shape > 3) refuse("shape", std::to_string(o.shape), "1, 2, 3");
  if (!(o.margin >= 1 && o.margin <= 100)) {
    refuse("margin", beam::number_text(o.margin), ">= 1 and <= 100");
  }
  if (o.grid_step != 0 && !(o.grid_step >= 1e-4 && o.grid_step <= 1)) {
    refuse("grid_step", beam::number_text(o.grid_step), "0, or >= 1e-4 and <= 1");
  }
  if (o.pipe) check(*o.pipe, "space charge");
  for (std::size_t i = 0; o.pipe && o.pipe->round && i < 2; ++i) {
    if (o.cells[i] < 9) {
      refuse("cells", std::to_string(o.cells[i]), "9 to 4096 along x and y in a round pipe");
    }
  }
  if (!(o.memory_limit >= 0)) refuse("memory_limit", beam::number_text(o.memory_limit), ">= 0");
}

/// Seconds since it was made or last asked.
class stopwatch {
 public:
  double lap() {
    const auto now = clock::now();
    return std::chrono::duration<double>(now - std::exchange(last_, now)).count();
  }

 private:
  using clock = std::chrono::steady_clock;
  clock::time_point last_ = clock::now();
};

std::string gigabytes(double bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g GB", bytes / 1e9);
  return text;
}

}  // namespace

double available_memory() {
  double least = std::numeric_limits<double>::infinity();
  std::ifstream system("/proc/meminfo");
  for (std::string line; std::getline(system, line);) {
    if (line.starts_with("MemAvailable:")) least = 1024 * std::strtod(line.c_str() + 13, nullptr);
  }
  // a container may allow less
  std::ifstream limit("/sys/fs/cgroup/memory.max"), used("/sys/fs/cgroup/memory.current");
  double allowed = 0, taken = 0;
  if (limit >> allowed && used >> taken) least = std::min(least, std::max(0.0, allowed - taken));
  return least;
}

space_charge_3d::space_charge_3d(const space_charge_3d_options& options) : options_(options) {
  check(options);
}

template <class F>
std::unique_ptr<space_charge_3d::workspace<F>>& space_charge_3d::kept() {
  if constexpr (std::is_same_v<F, float>) {
    return single_;
  } else {
    return double_;
  }
}

template <class F>
space_charge_3d::workspace<F>& space_charge_3d::memory_of(std::size_t particles) {
  auto& own = kept<F>();
  if (!own) {
    check_memory(std::is_same_v<F, float> ? beam::precision::single : beam::precision::double_,
                 particles);
    own = std::make_unique<workspace<F>>(nodes(), options_.pipe);
  }
  return *own;
}

std::array<std::size_t, 3> space_charge_3d::nodes() const {
  static_assert(mesh_margin == fields::pipe_margin, "walls are where particles may reach");
  std::array<std::size_t, 3> n = options_.cells;
  for (std::size_t i = 0; walls() && i < 2; ++i) {
    n[i] = fields::pipe_cells(n[i]) + 2 * mesh_margin + 1;
  }
  return n;
}

double space_charge_3d::memory(beam::precision p, std::size_t n) const {
  const auto bytes = [&]<class F>(F) {
    return (walls()   ? fields::pipe_solver<F>::memory(nodes())
            : round() ? fields::round_pipe_solver<F>::memory(nodes())
                      : fields::open_solver<F>::memory(nodes())) +
           fields::particle_mesh<F>::memory(n);
  };
  return p == beam::precision::single ? bytes(0.0f) : bytes(0.0);
}

void space_charge_3d::check_memory(beam::precision p, std::size_t particles) const {
  const double needed = memory(p, particles);
  const double there = options_.memory_limit > 0 ? options_.memory_limit : available_memory();
  if (needed <= there) return;
  throw std::invalid_argument(
      "space charge: a grid of " + std::to_string(options_.cells[0]) + " x " +
      std::to_string(options_.cells[1]) + " x " + std::to_string(options_.cells[2]) +
      " cells and " + std::to_string(particles) + " particles in " + std::string(beam::name_of(p)) +
      " precision need " + gigabytes(needed) + " of memory; allowed: " + gigabytes(there));
}

void space_charge_3d::check_memory(const beam::bunch& b) const {
  const bool single = b.precision() == beam::precision::single;
  {
    std::lock_guard lock(busy_);
    if (single ? single_ != nullptr : double_ != nullptr) return;
  }
  check_memory(b.precision(), b.size());
}

/// The grid for a bunch; none if there is nothing to do.
std::optional<space_charge_3d::fitted> space_charge_3d::fit(const beam::bunch& b,
                                                            unsigned threads) const {
  if (b.size() < (options_.pipe ? 1 : 2)) return std::nullopt;
  const std::array<std::size_t, 3> n = nodes();
  const fields::extent e = b.visit([&]<class F>(const beam::columns<const F>& c) {
    return fields::extent_of<std::remove_const_t<F>>(c, threads);
  });
  if (!e.finite) {
    b.check_finite();
    throw std::invalid_argument("space charge: a coordinate is not finite");
  }
  const double epsilon = b.precision() == beam::precision::single
                             ? static_cast<double>(std::numeric_limits<float>::epsilon())
                             : std::numeric_limits<double>::epsilon();
  const double beta_gamma = b.ref.beta_gamma();
  fitted result;
  result.low = e.low;
  result.high = e.high;
  std::array<double, 3> low = e.low, high = e.high, edges{};
  low[2] = -beta_gamma * e.high[2];
  high[2] = -beta_gamma * e.low[2];
  if (options_.pipe) check_inside(*options_.pipe, "space charge", b, threads);
  for (std::size_t i = 0; walls() && i < 2; ++i) {
    high[i] = i == 0 ? options_.pipe->half_width : options_.pipe->half_height;
    low[i] = -high[i];
  }
  for (std::size_t i = 0; i < 3; ++i) {
    double cells = static_cast<double>(n[i] - 1 - 2 * mesh_margin);
    if (walls() && i < 2) {
      edges[i] = (high[i] - low[i]) / cells;
      result.follows[i] = 3;
      continue;
    }
    if (round() && i < 2) cells -= 1;  // for the place of the grid, below
    const double size = (high[i] - low[i]) * options_.margin;
    // not finer than the coordinates themselves
    const double resolved = epsilon * std::max(std::fabs(low[i]), std::fabs(high[i]));
    edges[i] = size > 0 ? std::max(size / cells * (1 + 1e-9), resolved) : 0;
    result.follows[i] = edges[i] > resolved && options_.grid_step == 0 ? i : 3;
    result.growth[i] = options_.margin / cells * (1 + 1e-9);
  }
  if (round() && edges == std::array<double, 3>{}) {
    // one place, which feels its image only: any cell will do that the wall is smooth in
    edges[0] = edges[1] = 2 * options_.pipe->half_width / static_cast<double>(n[0]);
  }
  const auto longest_axis =
      static_cast<std::size_t>(std::ranges::max_element(edges) - edges.begin());
  const double longest = edges[longest_axis];
  if (longest == 0) return std::nullopt;
  if (!std::isfinite(longest)) {
    throw std::invalid_argument("space charge: the bunch is too large: cells of " +
                                beam::number_text(longest) + " m");
  }
  fields::mesh_frame& frame = result.frame;
  const double thinnest = b.size() < few_particles ? thinnest_of_few : thinnest_cell;
  for (std::size_t i = 0; i < 3; ++i) {
    // the wall acts also across a sheet or a line
    result.flat[i] = !(options_.pipe && i < 2) && high[i] - low[i] <= thinnest * longest;
    if (edges[i] >= thinnest * longest) continue;
    edges[i] = thinnest * longest;
    result.follows[i] = result.follows[longest_axis];
    result.growth[i] = thinnest * result.growth[longest_axis];
  }
  result.widened =
      b.precision() == beam::precision::single && !single_is_enough(edges, result.flat, b.size());
  frame.t_scale = -beta_gamma;
  if (walls()) {
    if (options_.grid_step > 0) {
      const double unit = std::log1p(options_.grid_step);
      edges[2] = std::exp(std::ceil(std::log(edges[2]) / unit) * unit) * (1 + 1e-12);
    }
    frame.cells = {edges[0], edges[1] / edges[0], edges[2] / edges[0]};
  } else if (options_.grid_step > 0) {
    const double unit = std::log1p(options_.grid_step);
    std::array<double, 3> power;
    for (std::size_t i = 0; i < 3; ++i) power[i] = std::ceil(std::log(edges[i]) / unit);
    frame.cells = {std::exp(power[0] * unit) * (1 + 1e-12), std::exp((power[1] - power[0]) * unit),
                   std::exp((power[2] - power[0]) * unit)};
  } else {
    frame.cells = {edges[0], edges[1] / edges[0], edges[2] / edges[0]};
  }
  const std::array<double, 3> chosen = frame.cells.edges();
  for (std::size_t i = 0; i < 3; ++i) {
    frame.origin[i] =
        low[i] + (high[i] - low[i]) / 2 - chosen[i] * static_cast<double>(n[i] - 1) / 2;
    if (round() && i < 2) frame.origin[i] = chosen[i] * std::round(frame.origin[i] / chosen[i]);
  }
  return result;
}

/// From particles to the potential in w.mesh; `density` gets a copy of the charges. With `pull` the dual charges, too, in
/// w.dual.
template <class F>
void space_charge_3d::solve(workspace<F>& w, const beam::columns<const F>& c,
                            const fields::mesh_frame& frame, unsigned threads,
                            fields::grid<F>* density, const fields::pull_columns<F>* pull) {
  stopwatch watch;
  w.mesh.clear(threads);
  w.particles.place(c, frame, nodes(), threads);
  if (pull) {
    if (!w.dual) w.dual.emplace(nodes());
    w.dual->clear(threads);
    w.particles.deposit_pull(options_.shape, *pull, w.mesh, *w.dual, threads);
  } else {
    w.particles.deposit(options_.shape, w.mesh, threads);
  }
  if (density) *density = w.mesh.copy();
  times_.deposit += watch.lap();
  times_.green_functions += w.solver.set_cells(frame, threads);
  times_.green += watch.lap();
  w.solver.solve(w.mesh, threads);
  times_.transforms += watch.lap();
}

void space_charge_3d::kick(beam::bunch& b, const tracking::kick_place& place) {
  if (place.length == 0) return;
  std::lock_guard lock(busy_);
  stopwatch watch;
  last_.reset();
  const std::optional<fitted> grid = fit(b, place.threads);
  if (!grid) return;
  const fields::mesh_frame& frame = grid->frame;
  times_.deposit += watch.lap();
  const double q = b.ref.particle.charge, mass = b.ref.particle.mass_eV;
  const double beta_gamma = b.ref.beta_gamma();
  const std::array<double, 3> edges = frame.cells.edges();
  const auto push = [&]<class F>(const beam::columns<F>& c) {
    workspace<F>& w = memory_of<F>(c.size);
    solve<F>(w, c, frame, place.threads, nullptr);
    watch.lap();
    const double strength =
        q * q * volt_metre / w.solver.unit() * place.length / (beta_gamma * mass);
    std::array<double, 3> factor = {strength / (beta_gamma * edges[0]),
                                    strength / (beta_gamma * edges[1]), -strength / edges[2]};
    for (std::size_t i = 0; i < 3; ++i) {
      if (grid->flat[i]) factor[i] = 0;
    }
    w.particles.gather(options_.shape, w.mesh, factor, c.z[1], c.z[3], c.z[5], place.threads);
    times_.gather += watch.lap();
  };
  b.visit([&]<class F>(const beam::columns<F>& c) {
    if constexpr (std::is_same_v<F, float>) {
      if (grid->widened) {
        const wide_columns wide(c, place.threads);
        push(wide.columns());
        wide.put_momenta(c);
        return;
      }
    }
    push(c);
  });
  ++times_.kicks;
  last_ =
      kicked{frame, b.ref, grid->widened ? beam::precision::double_ : b.precision(), place.threads};
}

std::optional<tracking::effect_field> space_charge_3d::last_field(std::string_view name) {
  std::lock_guard lock(busy_);
  const bool density = name == "density";
  if (!last_ || (!density && name != "potential")) return std::nullopt;
  tracking::effect_field f;
  const double gamma = last_->ref.gamma(), q = last_->ref.particle.charge;
  f.origin = last_->frame.origin;
  f.spacing = last_->frame.cells.edges();
  f.origin[2] /= gamma;
  f.spacing[2] /= gamma;
  const auto take = [&]<class F>(workspace<F>& w) {
    if (density && !last_->has_density) {
      if (w.density.nodes() != nodes()) w.density = fields::grid<F>(nodes());
      w.density.clear(last_->threads);
      w.particles.deposit(options_.shape, w.density, last_->threads);
      last_->has_density = true;
    }
    fields::grid<F>& grid = density ? w.density : w.mesh;
    f.data = grid.view().data;
    f.nodes = grid.nodes();
    f.strides = {1, grid.row(), grid.plane()};
  };
  if (last_->precision == beam::precision::single) {
    take(*single_);
  } else {
    take(*double_);
  }
  f.unit = density ? q * numerics::constants::elementary_charge /
                         (f.spacing[0] * f.spacing[1] * f.spacing[2])
                   : q * volt_metre / last_->frame.cells.x * gamma;
  return f;
}

namespace {

/// The first particle at this coordinate.
template <class F>
std::size_t particle_at(const F* column, std::size_t count, double value) {
  return static_cast<std::size_t>(std::find(column, column + count, static_cast<F>(value)) -
                                  column);
}

/// sum a_i b_i over the nodes.
template <class F>
double dot(const fields::grid<F>& a, const fields::grid<F>& b, unsigned threads) {
  const auto n = a.nodes();
  std::vector<double> planes(n[2]);
  numerics::parallel_for(threads, n[2], [&](std::size_t z) {
    for (std::size_t y = 0; y < n[1]; ++y) {
      double row = 0;
      for (std::size_t x = 0; x < n[0]; ++x) {
        row += static_cast<double>(a.at(x, y, z)) * static_cast<double>(b.at(x, y, z));
      }
      planes[z] += row;
    }
  });
  return numerics::sum(planes);
}

}  // namespace

/// sigma^T (dG/dh_a) rho for all axes. G, in units of 1/h_x, depends on the ratios of the edges.
template <class F>
std::array<double, 3> space_charge_3d::green_slopes(const fields::grid<F>& density,
                                                    const fields::grid<F>& dual,
                                                    const fields::cell& edges,
                                                    unsigned threads) const {
  std::array<double, 3> by_edge{};
  fields::open_solver<F> open(options_.cells);
  for (std::size_t axis = 1; axis < 3; ++axis) {
    open.set_cells(edges, threads, static_cast<int>(axis));
    fields::grid<F> potential = density.copy();
    open.solve(potential, threads);
    const double by_ratio = dot(dual, potential, threads);
    by_edge[axis] = by_ratio / edges.x;
    by_edge[0] -= by_ratio * (axis == 1 ? edges.y_over_x : edges.z_over_x) / edges.x;
  }
  return by_edge;
}

tracking::kick_slopes space_charge_3d::pull(beam::bunch& b, const tracking::covector& lambda,
                                            const tracking::kick_place& place) {
  tracking::kick_slopes slopes;
  std::lock_guard lock(busy_);
  last_.reset();  // the grids are used for other things
  const std::optional<fitted> grid = fit(b, place.threads);
  if (!grid) return slopes;
  const fields::mesh_frame& frame = grid->frame;
  const double q = b.ref.particle.charge, mass = b.ref.particle.mass_eV;
  const double beta_gamma = b.ref.beta_gamma();
  const std::array<double, 3> h = frame.cells.edges();
  const std::array<double, 3> scale = {1, 1, frame.t_scale};
  const auto pull_back = [&]<class F>(const beam::columns<F>& c, const std::array<F*, 6>& by) {
    workspace<F>& w = memory_of<F>(c.size);
    // factors are relative to the largest, so that single precision has no range to lose
    const double unit = q * q * volt_metre / h[0] / (beta_gamma * mass);
    std::array<double, 3> factor = {unit / (beta_gamma * h[0]), unit / (beta_gamma * h[1]),
                                    -unit / h[2]};
    double largest = 0;
    for (std::size_t a = 0; a < 3; ++a) {
      if (grid->flat[a]) factor[a] = 0;
      largest = std::max(largest, std::fabs(factor[a]));
    }
    const double strength = largest * place.length;
    fields::pull_columns<F> columns;
    for (std::size_t a = 0; a < 3; ++a) {
      columns.by_momentum[a] = by[2 * a + 1];
      columns.by_place[a] = by[2 * a];
      columns.momentum[a] = c.z[2 * a + 1];
      columns.factor[a] = static_cast<F>(factor[a] / largest);
      columns.scale[a] = static_cast<F>(grid->flat[a] ? 0 : strength * scale[a] / h[a]);
      columns.undo[a] = static_cast<F>(factor[a] * place.length);
      columns.centre[a] = static_cast<double>(nodes()[a] - 1) / 2;
    }
    const bool fresh = std::ranges::any_of(grid->follows, [](std::size_t i) { return i < 3; });
    fields::grid<F> density;
    solve<F>(w, c, frame, place.threads, fresh ? &density : nullptr, &columns);
    std::array<double, 3> by_edge{};
    if (fresh) by_edge = green_slopes(density, *w.dual, frame.cells, place.threads);
    w.solver.solve(*w.dual, place.threads);
    const std::array<double, 9> sums =
        w.particles.gather_pull(options_.shape, w.mesh, *w.dual, columns, place.threads);
    const double all = sums[6] + sums[7] + sums[8];
    slopes.length = largest * all;
    slopes.charge = strength * all;
    double by_beta_gamma = sums[5] - 2 * (sums[6] + sums[7]) - sums[8];
    by_edge[0] -= all / h[0];
    for (std::size_t a = 0; a < 3; ++a) {
      by_edge[a] -= (sums[3 + a] + sums[6 + a]) / h[a];
      if (grid->flat[a] || (options_.pipe && a < 2)) continue;  // walls stand still
      const std::size_t low = particle_at(c.z[2 * a], c.size, grid->low[a]);
      const std::size_t high = particle_at(c.z[2 * a], c.size, grid->high[a]);
      const double middle = -0.5 * strength * scale[a] * sums[a] / h[a];
      by[2 * a][low] = static_cast<F>(static_cast<double>(by[2 * a][low]) + middle);
      by[2 * a][high] = static_cast<F>(static_cast<double>(by[2 * a][high]) + middle);
    }
    for (std::size_t a = 0; a < 3; ++a) {
      const std::size_t i = grid->follows[a];
      if (i == 3) continue;
      const std::size_t low = particle_at(c.z[2 * i], c.size, grid->low[i]);
      const std::size_t high = particle_at(c.z[2 * i], c.size, grid->high[i]);
      const double edge = strength * by_edge[a] * grid->growth[a] * std::fabs(scale[i]);
      by[2 * i][low] = static_cast<F>(static_cast<double>(by[2 * i][low]) - edge);
      by[2 * i][high] = static_cast<F>(static_cast<double>(by[2 * i][high]) + edge);
      if (i == 2) by_beta_gamma += by_edge[a] * h[a];
    }
    slopes.kinetic = strength * by_beta_gamma / beta_gamma * (b.ref.gamma() / beta_gamma);
  };
  b.visit([&]<class F>(const beam::columns<F>& c) {
    const std::array<F*, 6>& by = lambda.of<F>();
    if constexpr (std::is_same_v<F, float>) {
      if (grid->widened) {
        const wide_columns wide(c, place.threads);
        const wide_columns wide_by(
            {{by[0], by[1], by[2], by[3], by[4], by[5]}, c.weight, nullptr, c.size}, place.threads);
        pull_back(wide.columns(), wide_by.columns().z);
        wide.put_momenta(c);
        for (std::size_t k = 0; k < 6; ++k) wide_by.put(k, by[k]);
        return;
      }
    }
    pull_back(c, by);
  });
  return slopes;
}

namespace {

fields::grid<float> narrowed(const fields::grid<double>& g) {
  const auto n = g.nodes();
  fields::grid<float> result(n);
  for (std::size_t z = 0; z < n[2]; ++z) {
    for (std::size_t y = 0; y < n[1]; ++y) {
      for (std::size_t x = 0; x < n[0]; ++x) result.at(x, y, z) = static_cast<float>(g.at(x, y, z));
    }
  }
  return result;
}

}  // namespace

template <class F>
space_charge_field<F> space_charge_3d::field(const beam::bunch& b, unsigned threads) {
  check_memory(b);
  std::lock_guard lock(busy_);
  const std::optional<fitted> grid = fit(b, threads);
  if (!grid) {
    throw std::invalid_argument("space charge: a field needs particles at two places at least");
  }
  const fields::mesh_frame& frame = grid->frame;
  space_charge_field<F> result;
  const space_charge_times before = times_;  // of kicks only
  b.visit([&]<class G>(const beam::columns<const G>& c) {
    if constexpr (std::is_same_v<G, F>) {
      last_.reset();
      if constexpr (std::is_same_v<F, float>) {
        if (grid->widened) {
          const wide_columns wide(c, threads);
          workspace<double>& w = memory_of<double>(c.size);
          fields::grid<double> density;
          solve<double>(w, wide.columns(), frame, threads, &density);
          result.density = narrowed(density);
          result.potential = narrowed(w.mesh);
          return;
        }
      }
      workspace<F>& w = memory_of<F>(c.size);
      solve<F>(w, c, frame, threads, &result.density);
      result.potential = w.mesh.copy();
    } else {
      throw std::invalid_argument("space charge: the field has the precision of the beam");
    }
  });
  times_ = before;
  const double gamma = b.ref.gamma(), q = b.ref.particle.charge;
  result.edges = frame.cells.edges();
  result.origin = frame.origin;
  result.edges[2] /= gamma;
  result.origin[2] /= gamma;
  result.density_unit = q * numerics::constants::elementary_charge /
                        (result.edges[0] * result.edges[1] * result.edges[2]);
  result.potential_unit = q * volt_metre / frame.cells.x;
  return result;
}

template space_charge_field<float> space_charge_3d::field(const beam::bunch&, unsigned);
template space_charge_field<double> space_charge_3d::field(const beam::bunch&, unsigned);

space_charge_times space_charge_3d::times() const {
  std::lock_guard lock(busy_);
  return times_;
}

void space_charge_3d::reset_times() {
  std::lock_guard lock(busy_);
  times_ = {};
}

tracking::effect effect_of(std::shared_ptr<space_charge_3d> solver) {
  tracking::effect e;
  e.name = "space charge";
  e.order = solver->options().order;
  e.spacing = solver->options().spacing;
  e.reversible = true;
  e.begin = [solver](const lattice::line&, const beam::bunch& b, lattice::direction) {
    solver->check_memory(b);
  };
  if (solver->options().pipe) {
    e.met_wall = [pipe = *solver->options().pipe](const beam::bunch& b, unsigned threads) {
      return outside(pipe, b, threads);
    };
  }
  e.field_names = {"density", "potential"};
  e.field = [solver](std::string_view name) {
    auto f = solver->last_field(name);
    if (f) f->owner = solver;
    return f;
  };
  if (solver->options().pipe && solver->options().grid_step == 0) {
    e.no_pull = "has cells that follow the beam in a pipe; allowed: a grid_step > 0";
  } else {
    e.pull = [solver](beam::bunch& b, const tracking::covector& lambda,
                      const tracking::kick_place& place) { return solver->pull(b, lambda, place); };
  }
  e.kick = [solver = std::move(solver)](beam::bunch& b, const tracking::kick_place& place) {
    solver->kick(b, place);
  };
  return e;
}

}  // namespace betatron::collective
