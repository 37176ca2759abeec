#include "fields/pipe.h"

#include <algorithm>
#include <cmath>

#include "numerics/constants.h"
#include "numerics/parallel.h"

namespace betatron::fields {

namespace {

using numerics::constants::pi;

std::size_t cells_of(std::size_t nodes) { return nodes - 1 - 2 * pipe_margin; }

/// Charges beyond the walls become those of images inside; on the walls there are none.
template <class F>
void fold(F* plane, std::size_t nx, std::size_t ny, std::size_t row) {
  for (std::size_t j = 0; j < ny; ++j) {
    F* low = plane + j * row + pipe_margin;
    F* high = plane + j * row + nx - 1 - pipe_margin;
    for (std::size_t i = 1; i <= pipe_margin; ++i) {
      low[i] -= *(low - i);
      *(high - i) -= high[i];
    }
    *low = *high = 0;
  }
  for (std::size_t j = 1; j <= pipe_margin; ++j) {
    F* low = plane + pipe_margin * row;
    F* high = plane + (ny - 1 - pipe_margin) * row;
    for (std::size_t i = 0; i < nx; ++i) {
      low[j * row + i] -= *(low - j * row + i);
      *(high - j * row + i) -= high[j * row + i];
    }
  }
}

/// The potential on the walls and, odd, beyond them.
template <class F>
void unfold(F* plane, std::size_t nx, std::size_t ny, std::size_t row) {
  for (std::size_t j = pipe_margin + 1; j + pipe_margin + 1 < ny; ++j) {
    F* low = plane + j * row + pipe_margin;
    F* high = plane + j * row + nx - 1 - pipe_margin;
    for (std::size_t i = 1; i <= pipe_margin; ++i) {
      *(low - i) = -low[i];
      high[i] = -*(high - i);
    }
    *low = *high = 0;
  }
  F* low = plane + pipe_margin * row;
  F* high = plane + (ny - 1 - pipe_margin) * row;
  for (std::size_t i = 0; i < nx; ++i) {
    low[i] = high[i] = 0;
    for (std::size_t j = 1; j <= pipe_margin; ++j) {
      *(low - j * row + i) = -low[j * row + i];
      high[j * row + i] = -*(high - j * row + i);
    }
  }
}

/// k_mn of a pipe: (pi m/width, pi n/height).
double wave_number(std::size_t m, std::size_t n, double width, double height) {
  return pi * std::hypot(static_cast<double>(m) / width, static_cast<double>(n) / height);
}

}  // namespace

std::size_t pipe_cells(std::size_t wanted) { return good_length(wanted); }

template <class F>
pipe_solver<F>::pipe_solver(std::array<std::size_t, 3> nodes)
    : n_(nodes),
      plan_{fft_plan<F>(2 * cells_of(nodes[0])), fft_plan<F>(2 * cells_of(nodes[1]))},
      row_(whole_packs<F>(cells_of(nodes[0]))),
      self_(row_ * cells_of(nodes[1])),
      step_(row_ * cells_of(nodes[1])),
      decay_(row_ * cells_of(nodes[1])) {}

template <class F>
double pipe_solver<F>::memory(std::array<std::size_t, 3> nodes) {
  const double plane = static_cast<double>(nodes[0]) * static_cast<double>(nodes[1]);
  return sizeof(F) * plane * (static_cast<double>(nodes[2]) + 3);
}

template <class F>
bool pipe_solver<F>::set_cells(const cell& given) {
  const std::array<double, 3> edges = given.edges();
  unit_ = edges[0];
  if (edges == edges_) return false;
  edges_ = edges;
  const std::size_t nx = cells_of(n_[0]), ny = cells_of(n_[1]);
  const double width = edges[0] * static_cast<double>(nx),
               height = edges[1] * static_cast<double>(ny);
  const double h = edges[2];
  const double scale = 16 * pi / (width * height) * unit_;  // a b = width height/4
  for (std::size_t n = 1; n < ny; ++n) {
    for (std::size_t m = 1; m <= row_; ++m) {
      const double k = wave_number(m, n, width, height), kh = k * h;
      const std::size_t at = (n - 1) * row_ + m - 1;
      const bool is = m < nx;
      self_[at] = static_cast<F>(is ? scale * -std::expm1(-kh / 2) / (k * kh) : 0);
      step_[at] =
          static_cast<F>(is ? scale * std::exp(-kh / 2) * -std::expm1(-kh) / (2 * k * kh) : 0);
      decay_[at] = static_cast<F>(is ? std::exp(-kh) : 0);
    }
  }
  return true;
}

template <class F>
void pipe_solver<F>::solve(grid<F>& charges, unsigned threads) {
  const field_kernels<F>& k = kernels<F>();
  const fft_view<F> x = view_of(plan_[0]), y = view_of(plan_[1]);
  const lattice_view<F> v = charges.view();
  constexpr std::size_t inside = pipe_margin + 1;
  const std::size_t first = inside * v.row + inside;
  const auto planes = [&](bool forward) {
    const std::size_t size = 2 * k.width * std::max(x.n, y.n);
    const auto memory = [size] { return huge_array<F>(size); };
    numerics::parallel_for_with(threads, v.nz, memory, [&](huge_array<F>& work, std::size_t z) {
      F* plane = v.data + z * v.plane;
      if (forward) fold(plane, v.nx, v.ny, v.row);
      k.sine_plane(x, y, plane + first, v.row, work.data());
      if (!forward) unfold(plane, v.nx, v.ny, v.row);
    });
  };
  planes(true);
  const auto memory = [&] { return huge_array<F>(k.width * v.nz); };
  numerics::parallel_for_with(
      threads, y.n / 2 - 1, memory, [&](huge_array<F>& work, std::size_t j) {
        const std::size_t at = j * row_;
        k.decay_z(v.data + first + j * v.row, x.n / 2 - 1, v.nz, v.plane, self_.data() + at,
                  step_.data() + at, decay_.data() + at, work.data());
      });
  planes(false);
}

pipe_solver_2d::pipe_solver_2d(std::array<std::size_t, 2> nodes)
    : n_(nodes),
      plan_{fft_plan<double>(2 * cells_of(nodes[0])), fft_plan<double>(2 * cells_of(nodes[1]))},
      row_(cells_of(nodes[0])),
      green_(row_ * cells_of(nodes[1])),
      work_(4 * kernels<double>().width * std::max(cells_of(nodes[0]), cells_of(nodes[1]))) {}

double pipe_solver_2d::memory(std::array<std::size_t, 2> nodes) {
  return 16.0 * static_cast<double>(nodes[0]) * static_cast<double>(nodes[1]);
}

void pipe_solver_2d::set_cells(const std::array<double, 2>& edges) {
  if (edges == edges_) return;
  edges_ = edges;
  const std::size_t nx = cells_of(n_[0]), ny = cells_of(n_[1]);
  const double width = edges[0] * static_cast<double>(nx),
               height = edges[1] * static_cast<double>(ny);
  for (std::size_t n = 1; n < ny; ++n) {
    for (std::size_t m = 1; m < nx; ++m) {
      const double k = wave_number(m, n, width, height);
      green_[(n - 1) * row_ + m - 1] = 8 * pi / (width * height * k * k);
    }
  }
}

void pipe_solver_2d::solve(grid<double>& charges) {
  const field_kernels<double>& k = kernels<double>();
  const fft_view<double> x = view_of(plan_[0]), y = view_of(plan_[1]);
  const lattice_view<double> v = charges.view();
  constexpr std::size_t inside = pipe_margin + 1;
  double* first = v.data + inside * v.row + inside;
  fold(v.data, v.nx, v.ny, v.row);
  k.sine_plane(x, y, first, v.row, work_.data());
  for (std::size_t j = 0; j + 1 < y.n / 2; ++j) {
    for (std::size_t i = 0; i + 1 < x.n / 2; ++i) first[j * v.row + i] *= green_[j * row_ + i];
  }
  k.sine_plane(x, y, first, v.row, work_.data());
  unfold(v.data, v.nx, v.ny, v.row);
}

template class pipe_solver<float>;
template class pipe_solver<double>;

}  // namespace betatron::fields
