#include "fields/poisson.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "fields/green.h"
#include "numerics/parallel.h"

namespace betatron::fields {

namespace {

/// An odd number of cache lines between planes: planes a power of two apart would share the same few sets.
template <class F>
std::size_t staggered(std::size_t size) {
  constexpr std::size_t line = 64 / sizeof(F);
  return ((size + line - 1) / line | 1) * line;
}

/// work(memory, i) for i < count, with `size` numbers for each thread.
template <class F, class Work>
void parallel_with_memory(unsigned threads, std::size_t count, std::size_t size, Work&& work) {
  numerics::parallel_for_with(
      threads, count, [size] { return huge_array<F>(size); },
      [&](huge_array<F>& memory, std::size_t i) { work(memory.data(), i); });
}

}  // namespace

template <class F>
grid<F>::grid(std::array<std::size_t, 3> nodes)
    : n_(nodes),
      row_(whole_packs<F>(nodes[0])),
      plane_(staggered<F>(row_ * nodes[1])),
      data_(plane_ * nodes[2] + 16) {}

template <class F>
grid<F> grid<F>::copy() const {
  grid<F> result(n_);
  std::memcpy(result.data_.data(), data_.data(), data_.size() * sizeof(F));
  return result;
}

template <class F>
void grid<F>::clear(unsigned threads) {
  numerics::parallel_for(threads, n_[2], [&](std::size_t z) {
    const std::size_t end = z + 1 == n_[2] ? data_.size() : (z + 1) * plane_;
    std::memset(data_.data() + z * plane_, 0, (end - z * plane_) * sizeof(F));
  });
}

template <class F>
open_solver<F>::open_solver(std::array<std::size_t, 3> nodes)
    : n_(nodes),
      plan_{axis_plan<F>(nodes[0]), axis_plan<F>(nodes[1]), axis_plan<F>(nodes[2])},
      row_(whole_packs<F>(nodes[0])),
      plane_(2 * staggered<F>(row_ * nodes[1])),
      green_row_(whole_packs<F>(plan_[0].m + 1)),
      green_plane_(staggered<F>(green_row_ * (plan_[1].m + 1))),
      spectrum_(plane_ * (plan_[2].m + 1)),
      green_(green_plane_ * (plan_[2].m + 1)) {}

template <class F>
double open_solver<F>::memory(std::array<std::size_t, 3> nodes) {
  double points = 1, spectrum = 2, green = 1;
  for (std::size_t i = 0; i < 3; ++i) {
    const double n = static_cast<double>(nodes[i]);
    const double m = static_cast<double>(good_length(nodes[i]));
    points *= n;
    spectrum *= i < 2 ? n : m + 1;
    green *= m + 1;
  }
  return sizeof(F) * (points + spectrum + green);
}

template <class F>
bool open_solver<F>::set_cells(const cell& edges, unsigned threads, int slope) {
  const std::array<double, 3> shape = {1, edges.y_over_x, edges.z_over_x};
  unit_ = edges.x;
  if (shape == shape_ && slope == slope_) return false;
  shape_ = {};  // nothing, should this be interrupted

  // where the longest edge is not short, in all three indices
  const double reach = short_edge * *std::ranges::max_element(shape);
  std::array<std::size_t, 3> near;
  for (std::size_t i = 0; i < 3; ++i) {
    const double last = std::min(reach / shape[i] + 1, static_cast<double>(n_[i]));
    near[i] = std::max<std::size_t>(1, static_cast<std::size_t>(last));
  }
  std::vector<double> block;
  if (slope == 0) {
    block = average_inverse_distances(near, shape, threads);
  } else {
    block.resize(near[0] * near[1] * near[2]);
    numerics::parallel_for(threads, near[1] * near[2], [&](std::size_t line) {
      const double y = static_cast<double>(line % near[1]) * shape[1];
      const double z = static_cast<double>(line / near[1]) * shape[2];
      for (std::size_t i = 0; i < near[0]; ++i) {
        block[line * near[0] + i] = average_inverse_distance_slope(
            {static_cast<double>(i), y, z}, shape, static_cast<std::size_t>(slope));
      }
    });
  }

  const field_kernels<F>& k = kernels<F>();
  const axis_view<F> x = view_of(plan_[0]), y = view_of(plan_[1]), z = view_of(plan_[2]);
  const double points =
      4 * static_cast<double>(x.m) * static_cast<double>(y.m) * static_cast<double>(z.m);
  const green_view<F> view{static_cast<F>(shape[1]),
                           static_cast<F>(shape[2]),
                           static_cast<F>(1 / points),
                           near[0],
                           near[1],
                           near[2],
                           block.data(),
                           slope};
  parallel_with_memory<F>(
      threads, n_[2], plane_work(x, y, k.width), [&](F* work, std::size_t plane) {
        k.green_plane(x, y, view, plane, green_.data() + plane * green_plane_, green_row_, work);
      });
  parallel_with_memory<F>(threads, y.m + 1, 6 * z.m * k.width, [&](F* work, std::size_t row) {
    k.green_row(z, green_.data() + row * green_row_, green_row_, green_plane_, work);
  });
  shape_ = shape;
  slope_ = slope;
  return true;
}

template <class F>
void open_solver<F>::solve(grid<F>& charges, unsigned threads) {
  const field_kernels<F>& k = kernels<F>();
  const axis_view<F> x = view_of(plan_[0]), y = view_of(plan_[1]), z = view_of(plan_[2]);
  const std::size_t imaginary = plane_ / 2;
  parallel_with_memory<F>(threads, n_[1], 2 * z.m * k.width, [&](F* work, std::size_t row) {
    const grid<F>& in = charges;
    k.forward_z(z, in.view(), row, spectrum_.data() + row * row_, imaginary, plane_, work);
  });
  parallel_with_memory<F>(threads, z.m + 1, plane_work(x, y, k.width),
                          [&](F* work, std::size_t plane) {
                            F* here = spectrum_.data() + plane * plane_;
                            k.convolve(x, y, here, here + imaginary, row_,
                                       green_.data() + plane * green_plane_, green_row_, work);
                          });
  parallel_with_memory<F>(threads, n_[1], 2 * z.m * k.width, [&](F* work, std::size_t row) {
    k.backward_z(z, spectrum_.data() + row * row_, imaginary, plane_, charges.view(), row, work);
  });
}

template class grid<float>;
template class grid<double>;
template class open_solver<float>;
template class open_solver<double>;

}  // namespace betatron::fields
