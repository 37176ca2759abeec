// network.h: what a fully connected network is, as a value: layers, activation functions, skip connections and
// normalisation of inputs and outputs. inference.h evaluates it, code_generation.h writes it as a program.
//
// With x the inputs (one number per column of a beam, or of features made from them),
//   v_0 = (x - input.offset) * input.scale
//   v_k = f_k(W_k v_{k-1} + b_k),  k = 1 ... number of layers, with v_skip added behind or inside f_k
//   y   = v_last * output.scale + output.offset.
#pragma once

#include <cstddef>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace betatron::surrogate {

/// What a layer does to each of its sums. leaky_relu has one slope for z < 0, prelu one or one per output.
/// gelu is z Phi(z), Phi the normal distribution function; gelu_tanh the form with a hyperbolic tangent
/// (D. Hendrycks and K. Gimpel, arXiv:1606.08415, section 2). silu is z/(1 + exp(-z)).
enum class activation { identity, relu, leaky_relu, prelu, tanh, sigmoid, silu, gelu, gelu_tanh };

/// All names, in the order of the enumeration.
const std::vector<std::string>& activation_names();
std::string_view name_of(activation);
/// Throws std::invalid_argument listing the names.
activation activation_named(std::string_view name);

/// One fully connected layer.
struct dense_layer {
  std::string name;  ///< for messages
  std::size_t inputs = 0, outputs = 0;
  std::vector<double> weights;  ///< outputs x inputs, row by row
  std::vector<double> bias{};   ///< one per output, or empty for none
  activation function = activation::identity;
  std::vector<double> slope{};  ///< for leaky_relu (one) and prelu (one, or one per output)

  /// What is added: 0 the normalised inputs, k the result of the k-th layer; none if negative.
  int skip = -1;
  bool skip_inside = false;  ///< added before the activation function, else behind it
};

/// One offset and one scale per column; empty for 0 and 1.
struct normalisation {
  std::vector<double> offset{}, scale{};
};

struct network {
  std::string name;
  normalisation input{};   ///< (x - offset) * scale
  normalisation output{};  ///< y * scale + offset
  std::vector<dense_layer> layers;

  std::size_t inputs() const { return layers.empty() ? 0 : layers.front().inputs; }
  std::size_t outputs() const { return layers.empty() ? 0 : layers.back().outputs; }
  std::size_t parameters() const;
  /// Floating-point operations per particle, a multiplication and an addition counted as two.
  double operations() const;
};

/// Throws std::invalid_argument that names the network, the layer, what was found and what is expected: no layers,
/// a layer without inputs or outputs, arrays of a wrong length, numbers that are not finite, layers that do not fit to
/// their neighbours, slopes where there are none, skip connections between different widths or backwards; numbers of
/// layers beyond +-largest.
void check(const network&, double largest = std::numeric_limits<double>::max());

/// Single precision and bfloat16 hold numbers up to this (a little more).
constexpr double largest_single = 3.38e38;

}  // namespace betatron::surrogate
