// networks.h: networks for tests, and what they are by their definition.
#pragma once

#include <cmath>
#include <cstddef>
#include <random>
#include <vector>

#include "surrogate/network.h"

namespace betatron::surrogate {

enum class skips { none, behind, inside };

/// Random weights, `layers` hidden layers of `units`.
inline network random_network(std::size_t layers, std::size_t units, activation a,
                              skips s = skips::none, unsigned seed = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal;
  network n;
  n.name = "random";
  for (std::size_t k = 0; k <= layers; ++k) {
    dense_layer l;
    l.inputs = k == 0 ? 6 : units;
    l.outputs = k < layers ? units : 6;
    l.weights.resize(l.inputs * l.outputs);
    for (double& w : l.weights) w = normal(generator) * std::sqrt(2.0 / double(l.inputs));
    l.bias.resize(l.outputs);
    for (double& b : l.bias) b = 0.1 * normal(generator);
    if (k < layers) {
      l.function = a;
      if (a == activation::leaky_relu) l.slope = {0.1};
      if (a == activation::prelu) {
        for (std::size_t m = 0; m < l.outputs; ++m) l.slope.push_back(0.3 * normal(generator));
      }
    }
    if (s != skips::none && k > 0 && k < layers) {
      l.skip = static_cast<int>(k);
      l.skip_inside = s == skips::inside;
    }
    if (s != skips::none && k == layers) l.skip = 0;
    n.layers.push_back(l);
  }
  n.input = {{1, 2, 3, 4, 5, 6}, {.1, .2, .3, .4, .5, .6}};
  n.output = {{1, 1, 1, 2, 2, 2}, {2, 3, 4, 2, 3, 4}};
  return n;
}

inline double activated(activation a, double z, double slope) {
  switch (a) {
    case activation::identity:
      return z;
    case activation::relu:
      return z < 0 ? 0 : z;
    case activation::leaky_relu:
    case activation::prelu:
      return z < 0 ? z * slope : z;
    case activation::tanh:
      return std::tanh(z);
    case activation::sigmoid:
      return 1 / (1 + std::exp(-z));
    case activation::silu:
      return z / (1 + std::exp(-z));
    case activation::gelu:
      return 0.5 * z * std::erfc(-z / std::sqrt(2.0));
    case activation::gelu_tanh:
      return 0.5 * z *
             (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846) * (z + 0.044715 * z * z * z)));
  }
  return z;
}

/// One particle, by the formulas of network.h.
inline std::vector<double> by_definition(const network& n, const std::vector<double>& in) {
  std::vector<std::vector<double>> v(1);
  for (std::size_t i = 0; i < in.size(); ++i) {
    v[0].push_back((in[i] - n.input.offset[i]) * n.input.scale[i]);
  }
  for (const dense_layer& l : n.layers) {
    std::vector<double> y(l.outputs);
    for (std::size_t m = 0; m < l.outputs; ++m) {
      double z = l.bias.empty() ? 0 : l.bias[m];
      for (std::size_t k = 0; k < l.inputs; ++k) z += l.weights[m * l.inputs + k] * v.back()[k];
      const double more = l.skip < 0 ? 0 : v[static_cast<std::size_t>(l.skip)][m];
      const double slope = l.slope.empty() ? 0 : l.slope[l.slope.size() > 1 ? m : 0];
      y[m] = l.skip_inside ? activated(l.function, z + more, slope)
                           : activated(l.function, z, slope) + more;
    }
    v.push_back(y);
  }
  for (std::size_t i = 0; i < v.back().size(); ++i) {
    v.back()[i] = v.back()[i] * n.output.scale[i] + n.output.offset[i];
  }
  return v.back();
}

}  // namespace betatron::surrogate
