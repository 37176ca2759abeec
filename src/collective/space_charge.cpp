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

#include "beam/text.h"
#include "numerics/constants.h"

namespace betatron::collective {

namespace {

using fields::mesh_margin;

/// Potential of one elementary charge at 1 m [V].
constexpr double volt_metre =
    numerics::constants::elementary_charge /
    (4 * numerics::constants::pi * numerics::constants::vacuum_permittivity);

/// Cells are not flatter or longer than this: what is thinner is a sheet or a line of that thickness.
constexpr double thinnest = 1e-9;

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
  if (o.pipe) {
    check(*o.pipe, "space charge");
    if (o.pipe->round) {
      throw std::invalid_argument(
          "space charge: a round pipe is not allowed in three dimensions; allowed: a rectangular one, and a round one for "
          "SpaceCharge2D and SpaceCharge2p5D");
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

template <>
space_charge_3d::workspace<float>& space_charge_3d::memory_of() {
  if (!single_) single_ = std::make_unique<workspace<float>>(nodes(), options_.pipe.has_value());
  return *single_;
}
template <>
space_charge_3d::workspace<double>& space_charge_3d::memory_of() {
  if (!double_) double_ = std::make_unique<workspace<double>>(nodes(), options_.pipe.has_value());
  return *double_;
}

std::array<std::size_t, 3> space_charge_3d::nodes() const {
  static_assert(mesh_margin == fields::pipe_margin, "walls are where particles may reach");
  std::array<std::size_t, 3> n = options_.cells;
  for (std::size_t i = 0; options_.pipe && i < 2; ++i) {
    n[i] = fields::pipe_cells(n[i]) + 2 * mesh_margin + 1;
  }
  return n;
}

double space_charge_3d::memory(beam::precision p, std::size_t n) const {
  const auto bytes = [&]<class F>(F) {
    return (options_.pipe ? fields::pipe_solver<F>::memory(nodes())
                          : fields::open_solver<F>::memory(nodes())) +
           fields::particle_mesh<F>::memory(n);
  };
  return p == beam::precision::single ? bytes(0.0f) : bytes(0.0);
}

void space_charge_3d::check_memory(const beam::bunch& b) const {
  const bool single = b.precision() == beam::precision::single;
  {
    std::lock_guard lock(busy_);
    if (single ? single_ != nullptr : double_ != nullptr) return;
  }
  const double needed = memory(b.precision(), b.size());
  const double there = options_.memory_limit > 0 ? options_.memory_limit : available_memory();
  if (needed <= there) return;
  throw std::invalid_argument("space charge: a grid of " + std::to_string(options_.cells[0]) +
                              " x " + std::to_string(options_.cells[1]) + " x " +
                              std::to_string(options_.cells[2]) + " cells and " +
                              std::to_string(b.size()) + " particles in " +
                              std::string(beam::name_of(b.precision())) + " precision need " +
                              gigabytes(needed) + " of memory; allowed: " + gigabytes(there));
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
  std::array<double, 3> low = e.low, high = e.high, edges{};
  low[2] = -beta_gamma * e.high[2];
  high[2] = -beta_gamma * e.low[2];
  for (std::size_t i = 0; options_.pipe && i < 2; ++i) {
    const double wall = i == 0 ? options_.pipe->half_width : options_.pipe->half_height;
    if (high[i] > wall) refuse_outside("space charge", i == 0 ? "x" : "y", high[i], wall);
    if (low[i] < -wall) refuse_outside("space charge", i == 0 ? "x" : "y", low[i], -wall);
    low[i] = -wall;
    high[i] = wall;
  }
  for (std::size_t i = 0; i < 3; ++i) {
    const double cells = static_cast<double>(n[i] - 1 - 2 * mesh_margin);
    if (options_.pipe && i < 2) {
      edges[i] = (high[i] - low[i]) / cells;
      continue;
    }
    const double size = (high[i] - low[i]) * options_.margin;
    // not finer than the coordinates themselves
    const double resolved = epsilon * std::max(std::fabs(low[i]), std::fabs(high[i]));
    edges[i] = size > 0 ? std::max(size / cells * (1 + 1e-9), resolved) : 0;
  }
  const double longest = *std::ranges::max_element(edges);
  if (longest == 0) return std::nullopt;
  if (!std::isfinite(longest)) {
    throw std::invalid_argument("space charge: the bunch is too large: cells of " +
                                beam::number_text(longest) + " m");
  }
  fitted result;
  fields::mesh_frame& frame = result.frame;
  for (std::size_t i = 0; i < 3; ++i) {
    result.flat[i] = edges[i] == 0;
    edges[i] = std::max(edges[i], thinnest * longest);
  }
  frame.t_scale = -beta_gamma;
  if (options_.pipe) {
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
  }
  return result;
}

/// From particles to the potential in w.mesh; `density` gets a copy of the charges.
template <class F>
void space_charge_3d::solve(workspace<F>& w, const beam::columns<const F>& c,
                            const fields::mesh_frame& frame, unsigned threads,
                            fields::grid<F>* density) {
  stopwatch watch;
  w.mesh.clear(threads);
  w.particles.place(c, frame, nodes(), threads);
  w.particles.deposit(options_.shape, w.mesh, threads);
  if (density) *density = w.mesh.copy();
  times_.deposit += watch.lap();
  times_.green_functions += w.solver.set_cells(frame.cells, threads);
  times_.green += watch.lap();
  w.solver.solve(w.mesh, threads);
  times_.transforms += watch.lap();
}

void space_charge_3d::kick(beam::bunch& b, const tracking::kick_place& place) {
  if (place.length == 0) return;
  std::lock_guard lock(busy_);
  stopwatch watch;
  const std::optional<fitted> grid = fit(b, place.threads);
  if (!grid) return;
  const fields::mesh_frame& frame = grid->frame;
  times_.deposit += watch.lap();
  const double q = b.ref.particle.charge, mass = b.ref.particle.mass_eV;
  const double beta_gamma = b.ref.beta_gamma();
  const std::array<double, 3> edges = frame.cells.edges();
  b.visit([&]<class F>(const beam::columns<F>& c) {
    workspace<F>& w = memory_of<F>();
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
  });
  ++times_.kicks;
}

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
      workspace<F>& w = memory_of<F>();
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
  e.kick = [solver = std::move(solver)](beam::bunch& b, const tracking::kick_place& place) {
    solver->kick(b, place);
  };
  return e;
}

}  // namespace betatron::collective
