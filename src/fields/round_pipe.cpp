#include "fields/round_pipe.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "numerics/constants.h"
#include "numerics/parallel.h"

namespace betatron::fields {

namespace {

using numerics::constants::pi;

/// Amplitudes of one row of their grid: whole packs of any width.
constexpr std::size_t row_length = 64;

/// Cells beyond the wall over which potentials go on.
constexpr double beyond_wall = 4;

/// The wall is resolved like by a grid that fills the pipe, of that many cells or more: a small grid next to the wall has finer
/// cells, and would need thousands of modes.
constexpr std::size_t wall_cells = 128;

double wall_cell(const std::array<std::size_t, 3>& nodes, double radius) {
  return 2 * radius / static_cast<double>(std::max({nodes[0], nodes[1], wall_cells}));
}

/// Walls are made for a reach/(1 - reach) and a cell in such steps, so that they can be reused while the beam moves and changes.
constexpr double wall_step = 1.2;

double rounded_cell(double cell) {
  const double unit = std::log(wall_step);
  return std::exp(std::round(std::log(cell) / unit) * unit);
}

/// Rounded up; 1 where the wall is within a quarter of a cell.
double rounded_reach(double reach, double cell) {
  if (1 - reach < cell / 4) return 1;
  const double unit = std::log(wall_step);
  const double ratio = std::exp(std::ceil(std::log(reach / (1 - reach)) / unit) * unit);
  return 1 / (1 + ratio) < cell / 4 ? 1 : ratio / (1 + ratio);
}

/// Without its last bits, which change when the other edges of a cell do.
double rounded_step(double step) {
  constexpr double scale = 0x1p40;
  int exponent = 0;
  const double mantissa = std::frexp(step, &exponent);
  return std::ldexp(std::round(mantissa * scale) / scale, exponent);
}

std::size_t sectors_for(std::size_t modes) {
  return good_length(std::max<std::size_t>(24, 4 * modes));
}

}  // namespace

template <class F>
round_pipe_solver<F>::round_pipe_solver(std::array<std::size_t, 3> nodes)
    : n_(nodes), open_(nodes), along_(nodes[2]) {}

template <class F>
bool round_pipe_solver<F>::set_cells(const cell& edges, const std::array<double, 2>& first,
                                     double radius, unsigned threads) {
  bool made = open_.set_cells(edges, threads);
  const std::array<double, 3> h = edges.edges();
  double corner = 0;
  for (int i = 0; i < 4; ++i) {
    const double x = first[0] + ((i & 1) != 0 ? h[0] * static_cast<double>(n_[0] - 1) : 0);
    const double y = first[1] + ((i & 2) != 0 ? h[1] * static_cast<double>(n_[1] - 1) : 0);
    corner = std::max(corner, std::hypot(x, y));
  }
  const double across = rounded_cell(std::max({h[0], h[1], wall_cell(n_, radius)}) / radius);
  const shape wanted{radius, rounded_reach(std::min(1.0, corner / radius), across), across,
                     rounded_step(h[2] / radius)};
  const bool other = wanted != shape_;
  if (other) {
    shape_ = {};  // nothing, should this be interrupted
    make_wall(wanted, threads);
    shape_ = wanted;
    made = true;
  }
  const std::array<double, 4> at = {h[0], h[1], first[0], first[1]};
  if (other || at != places_for_) {
    places_for_ = at;
    place_columns(edges, first, threads);
  }
  return made;
}

template <class F>
void round_pipe_solver<F>::make_wall(const shape& s, unsigned threads) {
  wall_ = cylinder_wall(s.reach, s.cell, s.step, n_[2], threads);
  const std::size_t modes = wall_.rank.size(), rings = wall_.rings.size();
  const std::size_t sectors = sectors_for(modes);
  if (circle_.n != sectors) circle_ = fft_plan<F>(sectors);
  rank_.assign(wall_.rank.begin(), wall_.rank.end());
  std::size_t ranks = 0, pairs = 0;
  amplitude_count_ = 0;
  for (std::size_t m = 0; m < modes; ++m) {
    const std::size_t n = wall_.rank[m];
    ranks += n;
    pairs += n * (n + 1) / 2;
    amplitude_count_ += m == 0 ? n : 2 * n;
  }
  radial_ = huge_array<F>(rings * ranks);
  F* to = radial_.data();
  for (const auto& u : wall_.u)
    to = std::ranges::transform(u, to, [](double v) { return static_cast<F>(v); }).out;

  const field_kernels<F>& k = kernels<F>();
  green_plane_ = whole_packs<F>(pairs);
  green_ = huge_array<F>(green_plane_ * (along_.m + 1));
  std::fill_n(green_.data(), green_plane_ * (along_.m + 1), F(0));
  const double scale = -1 / static_cast<double>(along_.m);
  std::size_t pair = 0;
  for (const auto& w : wall_.w) {
    for (std::size_t i = 0; i < w.size(); i += n_[2], ++pair) {
      for (std::size_t j = 0; j < n_[2]; ++j) {
        green_[j * green_plane_ + pair] = static_cast<F>(scale * w[i + j]);
      }
    }
  }
  wall_.w.clear();
  const auto view = view_of(along_);
  const auto memory = [&] { return huge_array<F>(6 * along_.m * k.width); };
  numerics::parallel_for_with(
      threads, green_plane_ / k.width, memory, [&](huge_array<F>& work, std::size_t i) {
        k.green_row(view, green_.data() + i * k.width, k.width, green_plane_, work.data());
      });

  const std::size_t rows = (amplitude_count_ + row_length - 1) / row_length;
  if (amplitudes_.nodes()[1] != rows) {
    amplitudes_ = grid<F>({row_length, rows, n_[2]});
    spectrum_ = huge_array<F>(2 * amplitudes_.plane() * (along_.m + 1));
  }
  amplitudes_.clear(threads);
}

template <class F>
void round_pipe_solver<F>::place_columns(const cell& edges, const std::array<double, 2>& first,
                                         unsigned threads) {
  const std::array<double, 3> h = edges.edges();
  const std::size_t sectors = circle_.n, row = sectors + polar_points - 1;
  if (places_.size() == 0) places_ = huge_array<polar_place<F>>(n_[0] * n_[1]);
  const double farthest = beyond_wall * shape_.cell;
  numerics::parallel_for(threads, n_[1], [&](std::size_t j) {
    for (std::size_t i = 0; i < n_[0]; ++i) {
      const double x = first[0] + h[0] * static_cast<double>(i);
      const double y = first[1] + h[1] * static_cast<double>(j);
      const double r = std::hypot(x, y) / shape_.radius;
      const double inside = std::min(r, wall_.reach);
      const double ring = wall_.place(inside);
      const std::size_t a =
          std::min(static_cast<std::size_t>(ring), wall_.rings.size() - polar_points / 2 - 1);
      const polar_weights along_r(ring - static_cast<double>(a));
      const double beyond = std::min(r - inside, farthest) * wall_.place_slope(inside);
      const double turn = std::atan2(y, x) / (2 * pi);
      const double sector = (turn < 0 ? turn + 1 : turn) * static_cast<double>(sectors);
      const std::size_t b = std::min(static_cast<std::size_t>(sector), sectors - 1);
      const polar_weights along_t(sector - static_cast<double>(b));
      polar_place<F>& p = places_[j * n_[0] + i];
      const std::size_t first_sector = (b + sectors - 2) % sectors;
      p.first = static_cast<std::uint32_t>((a - 2) * row + first_sector);
      for (std::size_t l = 0; l < polar_points; ++l) {
        p.ring[l] = static_cast<F>(along_r.value[l] + beyond * along_r.slope[l]);
        p.sector[l] = static_cast<F>(along_t.value[l]);
      }
    }
  });
}

template <class F>
polar_view<F> round_pipe_solver<F>::view() const {
  const std::size_t row = circle_.n + polar_points - 1;
  return {places_.data(), wall_.rings.size(), row, view_of(circle_), rank_.size(), rank_.data(),
          radial_.data(), amplitude_count_};
}

template <class F>
void round_pipe_solver<F>::convolve(unsigned threads) {
  const field_kernels<F>& k = kernels<F>();
  const axis_view<F> z = view_of(along_);
  const lattice_view<F> amplitudes = amplitudes_.view();
  const std::size_t imaginary = amplitudes.plane, plane = 2 * imaginary;
  const auto memory = [&] { return huge_array<F>(2 * z.m * k.width); };
  numerics::parallel_for_with(threads, amplitudes.ny, memory,
                              [&](huge_array<F>& work, std::size_t row) {
                                const grid<F>& in = amplitudes_;
                                k.forward_z(z, in.view(), row, spectrum_.data() + row * row_length,
                                            imaginary, plane, work.data());
                              });

  const F unit = static_cast<F>(open_.unit() / shape_.radius);
  const auto product_of = [this] { return std::vector<F>(std::ranges::max(rank_)); };
  numerics::parallel_for_with(
      threads, z.m + 1, product_of, [&](std::vector<F>& product, std::size_t f) {
        for (std::size_t part = 0; part < 2; ++part) {
          F* at = spectrum_.data() + f * plane + part * imaginary;
          const F* w = green_.data() + f * green_plane_;
          for (std::size_t m = 0; m < rank_.size(); ++m) {
            const std::size_t n = rank_[m];
            for (int turn = 0; turn < (m == 0 ? 1 : 2); ++turn, at += n) {  // cos, sin
              const F* pair = w;  // of a symmetric matrix, row by row up to the diagonal
              for (std::size_t i = 0; i < n; ++i) {
                F sum = 0;
                for (std::size_t j = 0; j < i; ++j, ++pair) {
                  sum += *pair * at[j];
                  product[j] += *pair * at[i];
                }
                product[i] = sum + *pair++ * at[i];
              }
              for (std::size_t i = 0; i < n; ++i) at[i] = unit * product[i];
            }
            w += n * (n + 1) / 2;
          }
        }
      });

  numerics::parallel_for_with(threads, amplitudes.ny, memory,
                              [&](huge_array<F>& work, std::size_t row) {
                                k.backward_z(z, spectrum_.data() + row * row_length, imaginary,
                                             plane, amplitudes, row, work.data());
                              });
}

template <class F>
void round_pipe_solver<F>::solve(grid<F>& charges, unsigned threads) {
  const round_kernels<F>& k = round_table<F>();
  const polar_view<F> polar = view();
  const lattice_view<F> mesh = charges.view(), amplitudes = amplitudes_.view();
  const std::size_t blocks = (mesh.nz + k.width - 1) / k.width;
  const auto memory = [&] { return huge_array<F>(polar_work(polar, k.width)); };
  numerics::parallel_for_with(threads, blocks, memory, [&](huge_array<F>& work, std::size_t i) {
    const grid<F>& in = charges;
    k.sum(polar, in.view(), i * k.width, amplitudes.data, amplitudes.plane, work.data());
  });
  open_.solve(charges, threads);
  convolve(threads);
  numerics::parallel_for_with(threads, blocks, memory, [&](huge_array<F>& work, std::size_t i) {
    k.add(polar, mesh, i * k.width, amplitudes.data, amplitudes.plane, work.data());
  });
}

template <class F>
double round_pipe_solver<F>::memory(std::array<std::size_t, 3> nodes) {
  // as counted where the grid reaches the wall
  constexpr double rings = 50, amplitudes_per_mode = 13, pairs_per_mode = 27;
  const double cell = rounded_cell(wall_cell(nodes, 1)), nz = static_cast<double>(nodes[2]);
  const double m = static_cast<double>(good_length(nodes[2]));
  const double modes = static_cast<double>(cylinder_wall::modes(1, cell));
  const double convolution =
      modes * (amplitudes_per_mode * (nz + 2 * (m + 1)) + pairs_per_mode * (m + 1));
  const double columns = static_cast<double>(nodes[0]) * static_cast<double>(nodes[1]);
  return open_solver<F>::memory(nodes) + sizeof(F) * convolution +
         sizeof(polar_place<F>) * columns + cylinder_wall::memory(cell, rings);
}

template class round_pipe_solver<float>;
template class round_pipe_solver<double>;

}  // namespace betatron::fields
