#include "fields/green.h"

#include <algorithm>
#include <cmath>

#include "numerics/parallel.h"

namespace betatron::fields {

namespace {

constexpr double gauss_point = 0.77459666924148337704;  // sqrt(3/5)
constexpr double gauss_weight[3] = {5.0 / 18, 8.0 / 18, 5.0 / 18};

double square(double x) { return x * x; }

/// See far_average in kernels.cpp.
double series(const std::array<double, 3>& c, const std::array<double, 3>& h) {
  const double r2 = square(c[0]) + square(c[1]) + square(c[2]);
  double p[3], e[3], sum = 1;
  for (std::size_t i = 0; i < 3; ++i) {
    p[i] = square(c[i]) / r2;
    e[i] = square(h[i]) / r2;
    sum += e[i] * (3 * p[i] - 1) / 24 + square(e[i]) * ((105 * p[i] - 90) * p[i] + 9) / 1920;
  }
  for (std::size_t i = 0; i < 3; ++i) {
    const std::size_t j = (i + 1) % 3;
    sum += e[i] * e[j] * (105 * p[i] * p[j] - 15 * (p[i] + p[j]) + 3) / 576;
  }
  return sum / std::sqrt(r2);
}

/// Integral of 1/r along z from z1 to z2, at a distance sqrt(q) > 0 from the line unless z1 > 0.
double closed_line(double q, double z1, double z2) {
  const double r1 = std::sqrt(q + z1 * z1), r2 = std::sqrt(q + z2 * z2);
  return z1 >= 0 ? std::log((z2 + r2) / (z1 + r1)) : std::log((z2 + r2) * (r1 - z1) / q);
}

/// Integral of 1/r over a rectangle at the distance x.
double closed_plane(double x, const double (&y)[2], const double (&z)[2]) {
  double sum = 0;
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 2; ++j) {
      const double r = std::sqrt(x * x + y[i] * y[i] + z[j] * z[j]);
      double f = 0;  // a factor that is 0 takes its term away
      if (y[i] != 0) f += y[i] * std::asinh(z[j] / std::hypot(x, y[i]));
      if (z[j] != 0) f += z[j] * std::asinh(y[i] / std::hypot(x, z[j]));
      if (x != 0) f -= x * std::atan(y[i] * z[j] / (x * r));
      sum += i == j ? f : -f;
    }
  }
  return sum;
}

/// F.
double closed_corner(const std::array<double, 3>& p) {
  const double r = std::sqrt(p[0] * p[0] + p[1] * p[1] + p[2] * p[2]);
  double f = 0;
  for (std::size_t i = 0; i < 3; ++i) {
    const double x = p[i], y = p[(i + 1) % 3], z = p[(i + 2) % 3];
    if (y != 0 && z != 0) f += y * z * std::asinh(x / std::hypot(y, z));
    if (x != 0) f -= x * x / 2 * std::atan(y * z / (x * r));
  }
  return f;
}

/// sum of +-f(upper[0], upper[1], upper[2]) over the eight corners of a box, + where all are upper.
template <class Corner>
double over_corners(Corner&& f) {
  double sum = 0;
  for (int corner = 0; corner < 8; ++corner) {
    const std::array<bool, 3> upper = {(corner & 1) != 0, (corner & 2) != 0, (corner & 4) != 0};
    const double value = f(upper);
    sum += (upper[0] != upper[1]) != upper[2] ? value : -value;
  }
  return sum;
}

double closed_box(const std::array<double, 3>& c, const std::array<double, 3>& h) {
  return over_corners([&](const std::array<bool, 3>& upper) {
    std::array<double, 3> p;
    for (std::size_t i = 0; i < 3; ++i) p[i] = c[i] + (upper[i] ? h[i] : -h[i]) / 2;
    return closed_corner(p);
  });
}

/// The shortest edge is not short: F is needed.
bool in_closed_box(const std::array<double, 3>& c, const std::array<double, 3>& h) {
  const auto shortest = static_cast<std::size_t>(std::ranges::min_element(h) - h.begin());
  double distance2 = 0;
  for (std::size_t i = 0; i < 3; ++i) {
    const double outside = std::fabs(c[i]) - (i == shortest ? 0 : h[i] / 2);
    distance2 += square(std::max(0.0, outside));
  }
  return distance2 < square(short_edge * h[shortest]);
}

}  // namespace

double average_inverse_distance(const std::array<double, 3>& centre,
                                const std::array<double, 3>& edges) {
  std::array<std::size_t, 3> order = {0, 1, 2};
  std::ranges::sort(order, {}, [&](std::size_t i) { return edges[i]; });
  std::array<double, 3> c, h;
  for (std::size_t i = 0; i < 3; ++i) {
    c[i] = std::fabs(centre[order[i]]);
    h[i] = edges[order[i]];
  }
  const auto outside = [&](std::size_t i) { return std::max(0.0, c[i] - h[i] / 2); };
  const auto is_far = [](double distance2, double edge) {
    return distance2 >= square(short_edge * edge);
  };
  if (is_far(square(c[0]) + square(c[1]) + square(c[2]), h[2])) return series(c, h);

  const double z[2] = {c[2] - h[2] / 2, c[2] + h[2] / 2};
  if (is_far(square(c[0]) + square(c[1]) + square(outside(2)), h[1])) {
    double sum = 0;
    for (int i = 0; i < 3; ++i) {
      const double x = c[0] + (i - 1) * gauss_point * h[0] / 2;
      for (int j = 0; j < 3; ++j) {
        const double y = c[1] + (j - 1) * gauss_point * h[1] / 2;
        sum += gauss_weight[i] * gauss_weight[j] * closed_line(x * x + y * y, z[0], z[1]);
      }
    }
    return sum / h[2];
  }

  const double y[2] = {c[1] - h[1] / 2, c[1] + h[1] / 2};
  if (!in_closed_box(c, h)) {
    double sum = 0;
    for (int i = 0; i < 3; ++i) {
      sum += gauss_weight[i] * closed_plane(c[0] + (i - 1) * gauss_point * h[0] / 2, y, z);
    }
    return sum / (h[1] * h[2]);
  }
  return closed_box(c, h) / (h[0] * h[1] * h[2]);
}

double average_inverse_distance_slope(const std::array<double, 3>& centre,
                                      const std::array<double, 3>& edges, std::size_t axis) {
  const double h = edges[axis];
  const auto face = [&](double side) {
    std::array<double, 3> c = centre, flat = edges;
    c[axis] += side * h / 2;
    flat[axis] = 0;
    return average_inverse_distance(c, flat);
  };
  const double right = face(1), left = face(-1);
  return (0.5 * (right + left) - average_inverse_distance(centre, edges) +
          centre[axis] / h * (right - left)) /
         h;
}

std::vector<double> average_inverse_distances(const std::array<std::size_t, 3>& n,
                                              const std::array<double, 3>& edges,
                                              unsigned threads) {
  const auto line = [](const std::array<std::size_t, 3>& m, std::size_t j, std::size_t k) {
    return (k * m[1] + j) * m[0];
  };
  // corners of the boxes for which F is needed
  std::array<std::size_t, 3> m;
  for (std::size_t i = 0; i < 3; ++i) {
    const double last = short_edge * *std::ranges::min_element(edges) / edges[i] + 2;
    m[i] = std::min(n[i], static_cast<std::size_t>(last)) + 1;
  }
  std::vector<double> corner(m[0] * m[1] * m[2]);
  numerics::parallel_for(threads, m[1] * m[2], [&](std::size_t row) {
    const std::size_t j = row % m[1], k = row / m[1];
    for (std::size_t i = 0; i < m[0]; ++i) {
      corner[line(m, j, k) + i] = closed_corner({(static_cast<double>(i) - 0.5) * edges[0],
                                                 (static_cast<double>(j) - 0.5) * edges[1],
                                                 (static_cast<double>(k) - 0.5) * edges[2]});
    }
  });
  const double volume = edges[0] * edges[1] * edges[2];
  std::vector<double> result(n[0] * n[1] * n[2]);
  numerics::parallel_for(threads, n[1] * n[2], [&](std::size_t row) {
    const std::size_t j = row % n[1], k = row / n[1];
    for (std::size_t i = 0; i < n[0]; ++i) {
      const std::array<double, 3> centre = {static_cast<double>(i) * edges[0],
                                            static_cast<double>(j) * edges[1],
                                            static_cast<double>(k) * edges[2]};
      result[line(n, j, k) + i] =
          in_closed_box(centre, edges)
              ? over_corners([&](const std::array<bool, 3>& upper) {
                  return corner[line(m, j + upper[1], k + upper[2]) + i + upper[0]];
                }) / volume
              : average_inverse_distance(centre, edges);
    }
  });
  return result;
}

}  // namespace betatron::fields
