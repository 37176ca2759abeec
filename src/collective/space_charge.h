// space_charge.h: the field of a bunch in free space, on itself.
//
// In the rest frame of the reference particle the charges stand still, to first order in the spread of momenta:
//   x' = x,   y' = y,   z' = gamma z = -beta gamma t           (z = -beta t at fixed time; straight axes, also in a bend)
//   phi'(r') = q e/(4 pi eps0) sum_j w_j <1/|r' - r'_j|>,       E' = -grad' phi'
// Boosted to the laboratory, F_x = q e E'_x/gamma (the magnetic force takes away beta^2 of gamma E'_x), F_z = q e E'_z,
// and over the path L, which takes the time L/(beta c), with momenta over p0 and m = m c^2/e in volts,
//   dpx = q E'_x L/(beta^2 gamma^2 m),   dpy likewise,   dpt = -q E'_z L/(beta gamma m).
// Positions are those at fixed s: what particles move while the bunch passes, t px, is of second order. The kick depends
// on positions only and leaves them unchanged: it is undone exactly.
//
// Derivatives (`pull`) are those of what is computed, grid and all. With places u_a = (s_a z_a - o_a)/h_a in cells
// (s = 1, 1, -beta gamma), shapes S, the Green's function G (of the ratios of h) and central differences d^a of S along a:
//   rho_i = sum_p w_p S_i(u_p),   phi = G rho,   E_a(u) = sum_i d^a_i(u) phi_i,   dp_a = c_a E_a,
//   c_x = C/(beta gamma h_x^2),   c_y = C/(beta gamma h_x h_y),   c_z = -C/(h_x h_z),      C ~ L/(beta gamma).
// Given the derivative lambda of the loss by the momenta, m_a = lambda_a c_a are dual charges. G is symmetric, so that
// one more solution of the same equation gives all that the field of a particle does to the others:
//   sigma_i = sum_p sum_a m_a,p d^a_i(u_p),   psi = G sigma,
//   nu_b = sum_i m_a (d/du_b d^a_i) phi_i + w sum_i (d/du_b S_i) psi_i,            lambda_b += nu_b s_b/h_b.
// The grid: o_a = middle of the extreme particles - h_a (n_a - 1)/2. With N_a = sum_p nu_a, M_a = sum_p nu_a (u_a -
// (n_a - 1)/2) and W_a = sum_p m_a E_a, the extreme particles get -N_a/(2 h_a), and where the cells follow the beam
// closely (grid_step 0; else h is constant between its steps) +-margin/cells times
//   dLoss/dh_a = -M_a/h_a - W_a/h_a - [a = x] (W_x + W_y + W_z)/h_x + sigma^T (dG/dh_a) rho.
// Length and charge: W/L, W/Q (W the sum of W_a); beta gamma: (M_z - 2 W_x - 2 W_y - W_z)/(beta gamma), and with grid_step 0
// h_z (dLoss/dh_z)/(beta gamma) in addition.
// In a conducting pipe phi' is 0 on its wall: <1/|r' - r'_j|> gives way to the Green's function of fields/pipe.h
// (rectangular) or fields/round_pipe.h. The walls stand still in x and y, and a pipe along the beam looks the same from the
// rest frame. In a round pipe the grid goes with the beam as in free space, but by whole cells from the axis: it stands still in
// between, as far as derivatives are concerned.
// Sources: J. Qiang, R. D. Ryne, S. Habib, V. Decyk, J. Comput. Phys. 163 (2000) 434; J. Qiang et al., PRSTAB 9 (2006)
// 044204.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <variant>

#include "beam/bunch.h"
#include "collective/pipe_shape.h"
#include "fields/particle_mesh.h"
#include "fields/pipe.h"
#include "fields/poisson.h"
#include "fields/round_pipe.h"
#include "tracking/effect.h"

namespace betatron::collective {

struct space_charge_3d_options {
  /// Of the grid, each 8 ... 4096; in a round pipe 9 ... 4096 along x and y.
  std::array<std::size_t, 3> cells{64, 64, 64};
  int shape = 2;  ///< of a particle: 1 cloud in cell, 2 quadratic, 3 cubic
  double margin =
      1;  ///< the grid over the size of the bunch, 1 ... 100; six more cells are always added

  /// Edges of cells are powers of 1 + grid_step, so that the Green's function can be reused while the bunch changes by
  /// less: 1e-4 ... 1; 0: the grid fits the bunch closely at every kick.
  double grid_step = 0.05;

  int order = 1;            ///< of the splitting: 1 or 2
  double spacing = 0;       ///< of kicks [m]; 0: one per slice
  double memory_limit = 0;  ///< bytes; 0: what the system has left

  /// A conducting pipe. The grid fills a rectangular one, with cells[0] and cells[1] or a few more from wall to wall
  /// (fields::pipe_cells). Empty: free space.
  std::optional<pipe_shape> pipe{};
};

/// Seconds spent, and how often.
struct space_charge_times {
  double deposit = 0, green = 0, transforms = 0, gather = 0;
  std::size_t kicks = 0, green_functions = 0;
};

/// Density and potential on the grid, [z][y][x] (see fields::grid), with x fastest.
template <class F>
struct space_charge_field {
  fields::grid<F> density;    ///< charge per volume of the laboratory [C/m^3] over density_unit
  fields::grid<F> potential;  ///< of the rest frame [V] over potential_unit
  double density_unit = 0, potential_unit = 0;
  std::array<double, 3> origin{};  ///< of the first node: x, y, z in the laboratory [m]
  std::array<double, 3> edges{};   ///< of a cell in the laboratory [m]
};

/// Safe to use from several threads: they take turns.
class space_charge_3d {
 public:
  /// Throws std::invalid_argument naming the value and the allowed range.
  explicit space_charge_3d(const space_charge_3d_options& options);

  const space_charge_3d_options& options() const { return options_; }

  /// The kick of kick_place::length. In free space nothing happens to fewer than two particles, and if all are at one
  /// point. Throws std::invalid_argument if a coordinate is not finite, a particle is outside of the pipe, or the grid does
  /// not fit into memory.
  void kick(beam::bunch& b, const tracking::kick_place& place);

  /// Its adjoint, see tracking::effect. Throws as kick.
  tracking::kick_slopes pull(beam::bunch& b, const tracking::covector& lambda,
                             const tracking::kick_place& place);

  /// Bytes needed for a beam of n particles. Beams in single precision whose grid is so flat that it has to be solved in
  /// double need that memory, too.
  double memory(beam::precision p, std::size_t n) const;

  /// Throws std::invalid_argument naming the memory that is needed and there is, if that is less.
  void check_memory(const beam::bunch& b) const;

  /// Throws std::invalid_argument as kick, and if the beam has no extent or fewer than two particles.
  template <class F>
  space_charge_field<F> field(const beam::bunch& b, unsigned threads);

  /// The density (charge per volume of the laboratory [C/m^3]) or the potential (gamma times that of the rest frame
  /// [V]) of the last kick, by the name "density" or "potential": memory of the solver, written anew by its next kick.
  /// Nothing before the first, and for other names. The density is deposited again when it is asked for.
  std::optional<tracking::effect_field> last_field(std::string_view name);

  space_charge_times times() const;
  void reset_times();

 private:
  /// In free space or in a pipe.
  template <class F>
  class field_solver {
   public:
    field_solver(std::array<std::size_t, 3> n, const std::optional<pipe_shape>& pipe)
        : one_(make(n, pipe)), radius_(pipe ? pipe->half_width : 0) {}
    bool set_cells(const fields::mesh_frame& frame, unsigned threads) {
      unit_ = frame.cells.x;
      if (auto* open = std::get_if<fields::open_solver<F>>(&one_)) {
        return open->set_cells(frame.cells, threads);
      }
      if (auto* round = std::get_if<fields::round_pipe_solver<F>>(&one_)) {
        return round->set_cells(frame.cells, {frame.origin[0], frame.origin[1]}, radius_, threads);
      }
      return std::get<fields::pipe_solver<F>>(one_).set_cells(frame.cells);
    }
    void solve(fields::grid<F>& charges, unsigned threads) {
      std::visit([&](auto& s) { s.solve(charges, threads); }, one_);
    }
    double unit() const { return unit_; }  ///< of potentials

   private:
    using any =
        std::variant<fields::open_solver<F>, fields::pipe_solver<F>, fields::round_pipe_solver<F>>;
    static any make(std::array<std::size_t, 3> n, const std::optional<pipe_shape>& pipe) {
      if (!pipe) return fields::open_solver<F>(n);
      if (pipe->round) return fields::round_pipe_solver<F>(n);
      return fields::pipe_solver<F>(n);
    }
    any one_;
    double radius_, unit_ = 0;
  };
  template <class F>
  struct workspace {
    field_solver<F> solver;
    fields::grid<F> mesh;
    fields::grid<F> density{};  ///< of the last kick, if it was asked for
    fields::particle_mesh<F> particles;
    std::optional<fields::grid<F>> dual{};  ///< of gradients
    workspace(std::array<std::size_t, 3> n, const std::optional<pipe_shape>& pipe)
        : solver(n, pipe), mesh(n) {}
  };
  bool walls() const { return options_.pipe && !options_.pipe->round; }  ///< at x and y
  bool round() const { return options_.pipe && options_.pipe->round; }
  std::array<std::size_t, 3> nodes() const;
  template <class F>
  std::unique_ptr<workspace<F>>& kept();
  template <class F>
  workspace<F>& memory_of(std::size_t particles);  ///< throws as check_memory where it makes it
  void check_memory(beam::precision p, std::size_t particles) const;
  struct fitted {
    fields::mesh_frame frame;
    std::array<bool, 3> flat;  ///< all particles in one plane, to a cell: no field across it
    std::array<double, 3> low{}, high{};  ///< of the beam, x, y, t
    std::array<std::size_t, 3>
        follows{};                   ///< the axis whose extent decides on the cell; 3: none does
    std::array<double, 3> growth{};  ///< of the cell by that extent
    bool widened = false;            ///< solved in double precision, for a beam in single
  };
  std::optional<fitted> fit(const beam::bunch& b, unsigned threads) const;
  template <class F>
  void solve(workspace<F>& w, const beam::columns<const F>& c, const fields::mesh_frame& frame,
             unsigned threads, fields::grid<F>* density,
             const fields::pull_columns<F>* pull = nullptr);
  template <class F>
  std::array<double, 3> green_slopes(const fields::grid<F>& density, const fields::grid<F>& dual,
                                     const fields::cell& edges, unsigned threads) const;

  space_charge_3d_options options_;
  mutable std::mutex busy_;
  std::unique_ptr<workspace<float>> single_;
  std::unique_ptr<workspace<double>> double_;
  space_charge_times times_;

  struct kicked {
    fields::mesh_frame frame;
    beam::reference ref;
    beam::precision precision;
    unsigned threads;
    bool has_density = false;
  };
  std::optional<kicked> last_{};  ///< kick, while its particles and potential are in the workspace
};

/// As an effect for tracking; copies share the solver.
tracking::effect effect_of(std::shared_ptr<space_charge_3d> solver);

/// Memory that this process may still use [bytes]; infinity if the system does not say.
double available_memory();

}  // namespace betatron::collective
