// network.cpp: checks of a network.
#include "surrogate/network.h"

#include <cmath>
#include <sstream>
#include <stdexcept>

namespace betatron::surrogate {

namespace {

class checker {
 public:
  checker(const network& n, double largest) : network_(n), largest_(largest) {}

  void run() const {
    if (network_.layers.empty()) fail("has no layers");
    for (std::size_t k = 0; k < network_.layers.size(); ++k) check_layer(k);
    check_normalisation("input", network_.input, network_.inputs());
    check_normalisation("output", network_.output, network_.outputs());
  }

 private:
  template <class... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    std::ostringstream message;
    message << "network";
    if (!network_.name.empty()) message << " '" << network_.name << "'";
    message << ": ";
    (message << ... << parts);
    throw std::invalid_argument(message.str());
  }

  std::string describe(std::size_t k) const {
    std::string text = "layer " + std::to_string(k + 1);
    if (!network_.layers[k].name.empty()) text += " '" + network_.layers[k].name + "'";
    return text;
  }

  void check_numbers(const std::string& what, const std::vector<double>& numbers) const {
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      if (!std::isfinite(numbers[i])) {
        fail(what, "[", i, "] = ", numbers[i], " must be finite");
      }
    }
  }

  void check_size(const std::string& what, const std::vector<double>& numbers) const {
    check_numbers(what, numbers);
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      if (std::abs(numbers[i]) > largest_) {
        fail(what, "[", i, "] = ", numbers[i],
             " is beyond what it is to be computed in; allowed: -", largest_, " to ", largest_);
      }
    }
  }

  void check_layer(std::size_t k) const {
    const dense_layer& l = network_.layers[k];
    const std::string where = describe(k);
    if (l.inputs == 0 || l.outputs == 0) {
      fail(where, " has ", l.inputs, " inputs and ", l.outputs, " outputs; it needs at least one");
    }
    if (k > 0 && l.inputs != network_.layers[k - 1].outputs) {
      fail(where, " has ", l.inputs, " inputs, but ", describe(k - 1), " in front of it has ",
           network_.layers[k - 1].outputs, " outputs");
    }
    if (l.weights.size() != l.outputs * l.inputs) {
      fail(where, ": ", l.weights.size(), " weights, expected ", l.outputs, " x ", l.inputs, " = ",
           l.outputs * l.inputs);
    }
    if (!l.bias.empty() && l.bias.size() != l.outputs) {
      fail(where, ": ", l.bias.size(), " numbers in bias, expected ", l.outputs, " or none");
    }
    check_size(where + ": weights", l.weights);
    check_size(where + ": bias", l.bias);
    check_size(where + ": slope", l.slope);
    const std::size_t slopes = l.slope.size();
    const bool fits = l.function == activation::leaky_relu ? slopes == 1
                      : l.function == activation::prelu    ? slopes == 1 || slopes == l.outputs
                                                           : slopes == 0;
    if (!fits) {
      fail(where, ": ", slopes, " slopes for the activation ", name_of(l.function),
           "; leaky_relu has 1, prelu 1 or one per output (", l.outputs, "), others none");
    }
    if (l.skip >= 0) check_skip(k, l, where);
  }

  void check_skip(std::size_t k, const dense_layer& l, const std::string& where) const {
    const auto from = static_cast<std::size_t>(l.skip);
    if (from > k) {
      fail(where, " adds the result of layer ", from,
           "; it can add that of an earlier layer, or 0 for the inputs");
    }
    const std::size_t width = from == 0 ? network_.inputs() : network_.layers[from - 1].outputs;
    if (width != l.outputs) {
      fail(where, " has ", l.outputs, " outputs but adds ", width, " numbers from ",
           from == 0 ? std::string("the inputs") : describe(from - 1));
    }
  }

  void check_normalisation(const std::string& side, const normalisation& n,
                           std::size_t columns) const {
    for (const auto& [name, numbers] : {std::pair{" offset", &n.offset}, {" scale", &n.scale}}) {
      if (!numbers->empty() && numbers->size() != columns) {
        fail(side, name, " has ", numbers->size(), " numbers, expected ", columns, " or none");
      }
      check_numbers(side + name, *numbers);
    }
  }

  const network& network_;
  double largest_;
};

}  // namespace

const std::vector<std::string>& activation_names() {
  static const std::vector<std::string> names{"identity", "relu", "leaky_relu", "prelu",    "tanh",
                                              "sigmoid",  "silu", "gelu",       "gelu_tanh"};
  return names;
}

std::string_view name_of(activation a) { return activation_names()[static_cast<std::size_t>(a)]; }

activation activation_named(std::string_view name) {
  const auto& names = activation_names();
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (names[i] == name) return static_cast<activation>(i);
  }
  std::string known;
  for (const std::string& n : names) known += (known.empty() ? "" : ", ") + n;
  throw std::invalid_argument("activation '" + std::string(name) + "' is not one of " + known);
}

std::size_t network::parameters() const {
  std::size_t sum = 0;
  for (const dense_layer& l : layers) sum += l.weights.size() + l.bias.size() + l.slope.size();
  return sum;
}

double network::operations() const {
  double sum = 0;
  for (const dense_layer& l : layers) sum += 2.0 * static_cast<double>(l.weights.size());
  return sum;
}

void check(const network& n, double largest) { checker(n, largest).run(); }

}  // namespace betatron::surrogate
