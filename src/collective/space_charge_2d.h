// space_charge_2d.h: the space charge of beams that are much longer than wide, on a transverse grid.
//
// All particles, projected along the beam, are charged lines; their potential in free space is found on a grid in x and
// y (fields::open_solver_2d). In units of (charge per length)/(2 pi eps0), for a charge per length of 1:
//   u(x, y) = -sum_j (w_j/W) <ln r_j>,   e = -grad u.
//
//  - beam: of the current I everywhere; t has no meaning.
//      dpx = K L e_x,  K = 2 I/(I_A (beta gamma)^3)
//  - slices: a bunch (beta gamma sigma_t >> sigma_x, sigma_y) of which every slice has the same transverse profile, that
//    of the whole bunch, times the local line density n(t) (particles per metre of t, see line_density.h). With the
//    longitudinal kick also the field that comes from the slope of the line density:
//      dpx = 2 n r_q L e_x/(beta gamma)^3,   dpt = -2 (dn/dt) r_q L (ln R + u)/(beta gamma)^3
//    R, where the potential of a slice is 0, stands for the length of the bunch: space_charge_gaussian.h.
//
// Inside a conducting pipe u is 0 on the wall, and the longitudinal kick needs no R. In a rectangular pipe the grid fills
// the pipe (fields::pipe_solver_2d). In a round one of the radius a, every charge at z_j = x_j + i y_j has an image of the opposite
// sign at a^2/conj(z_j). Together with what makes u = 0 on the wall, those add to u and e of the grid
//   u: ln a - Re f,   e_x: Re f',   e_y: -Im f',      f(z) = sum_m conj(M_m) z^m/(m a^2m),   M_m = sum_j (w_j/W) z_j^m
// (L. J. Laslett, BNL-7534 (1963), p. 324: images in round pipes), with as many moments as |z|^2/a^2 needs. The moments are those
// of the particles, not of the grid.
//
// Derivatives (`pull`) are those of what is computed. With charges rho_i = sum_p (w_p/W) S_i(u_p) at places u = (x - o)/h
// in cells, phi = G rho, central differences e_a of phi on the grid, and the derivatives m_x, m_y, m_u of the loss by the e_x,
// e_y and u that a particle sees: M^a_i = sum_p m_a S_i, sigma_i = M^u_i + sum_a (M^a_{i+1} - M^a_{i-1})/(2 h_a) (along a),
// psi = G sigma (G is symmetric), and the derivative by u_b is
//   nu_b = sum_i (dS_i/du_b) (m_x e_x + m_y e_y + m_u phi + (w/W) psi)_i,
// that by an edge -sum nu_a (u_a - centre)/h_a - sum m_a e_a/h_a + sigma^T (dG/dh_a) rho; edges and origin follow the extreme
// particles. Slices: line_pull.h.
//
// Fields are central differences on the grid, seen through the shape that was deposited: no particle acts on itself, and
// the forces of `beam` add up to zero to rounding. Sources: strength.h; R. W. Hockney, J. W. Eastwood, Computer Simulation
// Using Particles (1988), sec. 5-3-3.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>

#include "collective/line_density.h"
#include "collective/pipe_shape.h"
#include "fields/pipe.h"
#include "fields/poisson_2d.h"
#include "tracking/effect.h"

namespace betatron::collective {

enum class plane_model { beam, slices };

struct space_charge_2d_options {
  plane_model model = plane_model::beam;
  std::array<std::size_t, 2> cells{64, 64};  ///< of the grid, each 8 ... 4096
  int shape = 2;  ///< of a particle: 1 cloud in cell, 2 quadratic, 3 cubic
  double margin =
      1;  ///< the grid over the size of the beam, 1 ... 100; six more cells are always added
  std::optional<double> current{};  ///< A, of `beam`: needed there, any sign

  // Only slices:
  line_options density{.bins = 100};  ///< of the slices
  bool longitudinal = true;           ///< with the longitudinal kick
  std::optional<double> scale{};      ///< R [m], > 0; empty: 1.1026 beta gamma sigma_t of the bunch

  /// A conducting pipe; a rectangular one has cells[0] x cells[1] cells or a few more (fields::pipe_cells). Empty: free space.
  std::optional<pipe_shape> pipe{};

  int order = 1;       ///< of the splitting: 1 or 2
  double spacing = 0;  ///< of kicks [m]; 0: one per slice
};

/// Safe to use from several threads: they take turns.
class space_charge_2d {
 public:
  /// Throws std::invalid_argument naming the value and the allowed range.
  explicit space_charge_2d(const space_charge_2d_options& options);

  const space_charge_2d_options& options() const { return options_; }

  /// The kick for the path `length` [m] (negative: undoes it) at the reference particle of the bunch. Nothing happens
  /// without charge, to fewer than two particles (`beam` in a pipe: to none; slices: that carry charge), and in free space if all x and y
  /// are the same. Throws
  /// std::invalid_argument if a coordinate is not finite, if a particle is outside of the pipe, and for slices of
  /// charges without length. The same bits for any number of threads.
  void kick(beam::bunch& b, double length, unsigned threads);

  /// Bytes that it needs besides a beam of so many particles.
  double memory(std::size_t particles) const;

  /// Throws std::invalid_argument naming the memory that is needed and there is, if that is less.
  void check_memory(std::size_t particles) const;

  /// Its adjoint, see tracking::effect. Throws as kick.
  tracking::kick_slopes pull(beam::bunch& b, const tracking::covector& lambda, double length,
                             unsigned threads);

 private:
  space_charge_2d_options options_;
  std::mutex busy_;
  std::optional<fields::open_solver_2d> solver_;
  std::optional<fields::pipe_solver_2d> pipe_;
};

/// As an effect for tracking; copies share the solver.
tracking::effect effect_of(std::shared_ptr<space_charge_2d> solver);

/// The distance R above for a bunch of rms length sigma_t [m].
double slice_scale(double beta_gamma, double sigma_t);

}  // namespace betatron::collective
