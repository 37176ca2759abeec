#include "fields/poisson_2d.h"

#include <algorithm>
#include <cmath>

namespace betatron::fields {

namespace {

/// The antiderivative above, without its factor; at 0 its limit.
double corner(double x, double y) {
  const double square = x * x + y * y;
  if (square == 0) return 0;
  const double a = x == 0 ? 0 : x * x * std::atan(y / x);
  const double b = y == 0 ? 0 : y * y * std::atan(x / y);
  return x * y * (std::log(square) - 3) + a + b;
}

/// Where the Taylor series takes over, in edges: its next term is below 1e-12 there.
constexpr double far_edges = 24;

}  // namespace

double average_logarithm(double x, double y, double hx, double hy) {
  const double r2 = x * x + y * y, edge = std::max(hx, hy);
  if (r2 > far_edges * far_edges * edge * edge) {
    const double p = (x * x - y * y) / (r2 * r2), q = -2 * x * y / (r2 * r2);  // 1/z^2
    const double h2 = hx * hx, k2 = hy * hy;
    return -0.5 * std::log(r2) + p * (h2 - k2) / 24 +
           (p * p - q * q) * ((h2 * h2 + k2 * k2) / 320 - h2 * k2 / 96);
  }
  const double a = x - hx / 2, b = x + hx / 2, c = y - hy / 2, d = y + hy / 2;
  return -0.5 * (corner(b, d) - corner(a, d) - corner(b, c) + corner(a, c)) / (hx * hy);
}

double average_logarithm_slope(double x, double y, double hx, double hy) {
  // minus the average of ln r over the edge at this height
  const auto edge = [&](double height) {
    const auto integral = [&](double at) {
      return 0.5 * at * std::log(at * at + height * height) - at + height * std::atan(at / height);
    };
    return (integral(x - hx / 2) - integral(x + hx / 2)) / hx;
  };
  const double upper = edge(y + hy / 2), lower = edge(y - hy / 2);
  return (0.5 * (upper + lower) - average_logarithm(x, y, hx, hy) + y / hy * (upper - lower)) / hy;
}

open_solver_2d::open_solver_2d(std::array<std::size_t, 2> nodes)
    : n_(nodes),
      plan_{axis_plan<double>(nodes[0]), axis_plan<double>(nodes[1])},
      green_row_(whole_packs<double>(plan_[0].m + 1)),
      green_(green_row_ * (plan_[1].m + 1)),
      work_(plane_work(view_of(plan_[0]), view_of(plan_[1]), kernels<double>().width) +
            6 * kernels<double>().width * std::max(plan_[0].m, plan_[1].m)) {}

double open_solver_2d::memory(std::array<std::size_t, 2> nodes) {
  const double x = static_cast<double>(nodes[0]), y = static_cast<double>(nodes[1]);
  const double mx = static_cast<double>(good_length(nodes[0])),
               my = static_cast<double>(good_length(nodes[1]));
  return 8 * (2 * x * y + (mx + 1) * (my + 1) + 4 * (mx + 16) * (my + 16));
}

void open_solver_2d::set_cells(const std::array<double, 2>& edges, bool slope) {
  edge_ = slope ? 1 : edges[0];  // the constant does not depend on the ratio
  if (shape_ == edges[1] / edges[0] && slope_ == slope) return;
  slope_ = slope;
  shape_ = edges[1] / edges[0];
  const field_kernels<double>& k = kernels<double>();
  const axis_view<double> x = view_of(plan_[0]), y = view_of(plan_[1]);
  const double scale = 1 / (4 * static_cast<double>(x.m) * static_cast<double>(y.m));

  // one row per x, transformed along x; then one per y, along y
  const std::size_t column = whole_packs<double>(y.n);
  huge_array<double> first(column * (x.m + 1));
  for (std::size_t i = 0; i < x.n; ++i) {
    for (std::size_t j = 0; j < column; ++j) {
      const double u = static_cast<double>(i), v = static_cast<double>(j) * shape_;
      first[i * column + j] = j >= y.n ? 0
                                       : scale * (slope ? average_logarithm_slope(u, v, 1, shape_)
                                                        : average_logarithm(u, v, 1, shape_));
    }
  }
  k.green_row(x, first.data(), column, column, work_.data());
  huge_array<double> second(green_row_ * (y.m + 1));
  for (std::size_t j = 0; j < y.n; ++j) {
    for (std::size_t p = 0; p < green_row_; ++p) {
      if (p > x.m) {
        second[j * green_row_ + p] = 0;
      } else {
        second[j * green_row_ + green_column(folded_frequency(p, x.m), x.m)] =
            first[p * column + j];
      }
    }
  }
  k.green_row(y, second.data(), green_row_, green_row_, work_.data());
  for (std::size_t p = 0; p <= y.m; ++p) {
    std::copy_n(second.data() + p * green_row_, green_row_,
                green_.data() + folded_frequency(p, y.m) * green_row_);
  }
}

void open_solver_2d::solve(grid<double>& charges) {
  double total = 0;
  double* re = charges.view().data;
  double* im = re + charges.plane();
  for (std::size_t j = 0; j < n_[1]; ++j) {
    for (std::size_t i = 0; i < charges.row(); ++i) {
      if (i < n_[0]) total += re[j * charges.row() + i];
      im[j * charges.row() + i] = 0;
    }
  }
  kernels<double>().convolve(view_of(plan_[0]), view_of(plan_[1]), re, im, charges.row(),
                             green_.data(), green_row_, work_.data());
  const double constant = -total * std::log(edge_);
  for (std::size_t j = 0; j < n_[1]; ++j) {
    for (std::size_t i = 0; i < n_[0]; ++i) re[j * charges.row() + i] += constant;
  }
}

}  // namespace betatron::fields
