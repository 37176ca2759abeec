// Networks against their definition, and their derivatives against differences.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "networks.h"
#include "surrogate/bf16_table.h"
#include "surrogate/inference.h"

using namespace betatron::surrogate;

namespace {

template <class F>
struct columns {
  std::vector<std::vector<F>> data;
  explicit columns(std::size_t n, std::size_t count = 6) : data(count, std::vector<F>(n)) {}
  static columns random(std::size_t n, unsigned seed, double spread) {
    columns c(n);
    std::mt19937 generator(seed);
    std::normal_distribution<double> normal;
    for (std::size_t k = 0; k < 6; ++k) {
      for (F& v : c.data[k]) v = static_cast<F>(spread * normal(generator) + double(k));
    }
    return c;
  }
  std::array<const F*, 6> in() const {
    std::array<const F*, 6> p;
    for (std::size_t k = 0; k < 6; ++k) p[k] = data[k].data();
    return p;
  }
  std::array<F*, 6> out() {
    std::array<F*, 6> p;
    for (std::size_t k = 0; k < 6; ++k) p[k] = data[k].data();
    return p;
  }
  std::vector<double> row(std::size_t i) const {
    std::vector<double> r;
    for (const auto& c : data) r.push_back(static_cast<double>(c[i]));
    return r;
  }
};

struct errors {
  double value, gradient;  // over the largest
};

/// Of some particles among n.
template <class F>
errors compare(const network& n, number_format format, std::size_t count) {
  const evaluator e(n, format);
  const auto in = columns<F>::random(count, 2, 2), bar = columns<F>::random(count, 3, 1);
  columns<F> out(count), in_bar(count);
  e.run(in.in().data(), out.out().data(), count);
  e.pull(in.in().data(), bar.in().data(), in_bar.out().data(), count);
  double worst = 0, largest = 0, worst_gradient = 0, largest_gradient = 0;
  for (std::size_t i = 0; i < count; i += std::max<std::size_t>(1, count / 20)) {
    std::vector<double> x = in.row(i);
    const auto y = by_definition(n, x), found = out.row(i), weight = bar.row(i);
    for (std::size_t k = 0; k < 6; ++k) {
      worst = std::max(worst, std::abs(y[k] - found[k]));
      largest = std::max(largest, std::abs(y[k]));
    }
    for (std::size_t j = 0; j < 6; ++j) {
      const double h = 1e-5, at = x[j];
      x[j] = at + h;
      const auto up = by_definition(n, x);
      x[j] = at - h;
      const auto down = by_definition(n, x);
      x[j] = at;
      double sum = 0;
      for (std::size_t k = 0; k < 6; ++k) sum += weight[k] * (up[k] - down[k]) / (2 * h);
      worst_gradient = std::max(worst_gradient, std::abs(sum - in_bar.row(i)[j]));
      largest_gradient = std::max(largest_gradient, std::abs(sum));
    }
  }
  return {worst / largest, worst_gradient / largest_gradient};
}

bool kinked(activation a) {  // a difference over the kink is no derivative
  return a == activation::relu || a == activation::leaky_relu || a == activation::prelu;
}

}  // namespace

TEST_CASE("every activation function and skip connection, in every format") {
  for (std::size_t a = 0; a < activation_names().size(); ++a) {
    const auto f = static_cast<activation>(a);
    for (const skips s : {skips::none, skips::behind, skips::inside}) {
      CAPTURE(activation_names()[a]);
      CAPTURE(static_cast<int>(s));
      const network n = random_network(3, 20 + a, f, s);
      const errors wide = compare<double>(n, number_format::double_, 333);
      CHECK(wide.value < 1e-14);
      CHECK(wide.gradient < (kinked(f) ? 1e-3 : 1e-8));
      const errors single = compare<float>(n, number_format::single, 100 + a);
      CHECK(single.value < 3e-6);
      CHECK(single.gradient < (kinked(f) ? 1e-2 : 3e-5));
      const errors rounded = compare<double>(n, number_format::bf16, 100 + a);
      CHECK(rounded.value < 0.05);
      CHECK(rounded.gradient < (kinked(f) ? 0.6 : 0.1));  // near a kink, the other side is taken
    }
  }
}

TEST_CASE("layers of many widths, and few particles") {
  for (const std::size_t units :
       std::vector<std::size_t>{1, 2, 5, 6, 7, 13, 16, 17, 31, 33, 48, 129, 257}) {
    CAPTURE(units);
    const network n = random_network(2, units, activation::tanh, skips::behind);
    for (const std::size_t count : std::vector<std::size_t>{1, 3, 16, 47, 64, 65}) {
      CAPTURE(count);
      CHECK(compare<double>(n, number_format::double_, count).value < 1e-14);
      CHECK(compare<double>(n, number_format::single, count).value < 3e-6);
      CHECK(compare<float>(n, number_format::bf16, count).value < 0.05);
    }
  }
}

TEST_CASE("a result depends neither on the place of the particle nor on threads") {
  const network n = random_network(2, 300, activation::relu);
  for (const number_format f :
       {number_format::single, number_format::double_, number_format::bf16}) {
    const evaluator e(n, f);
    const std::size_t count = 1501;
    const auto in = columns<double>::random(count, 5, 1);
    columns<double> one(count), two(count), bar_one(count), bar_two(count);
    e.run(in.in().data(), one.out().data(), count, 1);
    e.run(in.in().data(), two.out().data(), count, 3);
    CHECK(one.data == two.data);
    e.pull(in.in().data(), in.in().data(), bar_one.out().data(), count, 1);
    e.pull(in.in().data(), in.in().data(), bar_two.out().data(), count, 3);
    CHECK(bar_one.data == bar_two.data);
    for (const std::size_t first :
         std::vector<std::size_t>{1, 17, 777, 1500}) {  // from another place, in other company
      auto from = in.in();
      auto to = two.out();
      auto bar = bar_two.out();
      const std::size_t some = std::min<std::size_t>(count - first, 29);
      for (std::size_t k = 0; k < 6; ++k) {
        from[k] += first;
        to[k] += first;
        bar[k] += first;
        std::fill_n(to[k], some, 0.0);
        std::fill_n(bar[k], some, 0.0);
      }
      e.run(from.data(), to.data(), some);
      e.pull(from.data(), from.data(), bar.data(), some);
      CHECK(one.data == two.data);
      CHECK(bar_one.data == bar_two.data);
    }
  }
}

TEST_CASE("in place, and with derivatives that depend on the outputs") {
  const network n = random_network(2, 24, activation::silu);
  const evaluator e(n, number_format::double_);
  const std::size_t count = 200;
  const auto in = columns<double>::random(count, 6, 1);
  columns<double> out(count), bar(count), turned(count);
  e.run(in.in().data(), out.out().data(), count);
  columns<double> same = in;
  e.run(same.in().data(), same.out().data(), count);
  CHECK(same.data == out.data);
  e.pull(in.in().data(), out.in().data(), bar.out().data(), count);  // of half the sum of squares
  const evaluator::turn<double> keep = [&](std::size_t first, std::size_t some, double* const* c) {
    for (std::size_t i = 0; i < some; ++i) REQUIRE(c[2][i] == out.data[2][first + i]);
  };
  e.pull(in.in().data(), keep, turned.out().data(), count);
  CHECK(turned.data == bar.data);
  columns<double> again = out;
  e.pull(in.in().data(), again.in().data(), again.out().data(), count);
  CHECK(again.data == bar.data);
}

TEST_CASE("numbers that are not finite stay with their particle, and are not hidden") {
  for (const activation a : {activation::relu, activation::prelu, activation::tanh,
                             activation::gelu, activation::silu, activation::gelu_tanh}) {
    for (const number_format f :
         {number_format::single, number_format::double_, number_format::bf16}) {
      const network n = random_network(2, 40, a);
      const evaluator e(n, f);
      auto in = columns<double>::random(50, 7, 1);
      columns<double> clean(50), out(50);
      e.run(in.in().data(), clean.out().data(), 50);
      in.data[3][20] = std::numeric_limits<double>::quiet_NaN();
      e.run(in.in().data(), out.out().data(), 50);
      for (std::size_t i = 0; i < 50; ++i) {
        for (std::size_t k = 0; k < 6; ++k) {
          if (i == 20) {
            CHECK(!std::isfinite(out.data[k][i]));
          } else {
            CHECK(out.data[k][i] == clean.data[k][i]);
          }
        }
      }
    }
  }
}

TEST_CASE("broken networks are refused, and the layer is named") {
  const network good = random_network(2, 8, activation::prelu);
  const auto message = [](const network& n) -> std::string {
    try {
      check(n);
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "";
  };
  CHECK(message(good) == "");
  const auto broken = [&](auto&& change) {
    network n = good;
    n.layers[1].name = "second";
    change(n);
    return message(n);
  };
  const auto says = [](const std::string& text, const char* part) {
    CAPTURE(text);
    CHECK(text.find(part) != std::string::npos);
  };
  says(broken([](network& n) { n.layers.clear(); }), "has no layers");
  says(broken([](network& n) { n.layers[1].weights[3] = std::nan(""); }),
       "layer 2 'second': weights[3] = nan must be finite");
  says(broken([](network& n) { n.layers[1].weights.pop_back(); }), "layer 2 'second': 63 weights");
  says(broken([](network& n) { n.layers[1].bias.pop_back(); }),
       "layer 2 'second': 7 numbers in bias");
  says(broken([](network& n) { n.layers[1].slope = {1, 2}; }), "layer 2 'second': 2 slopes");
  says(broken([](network& n) { n.layers[1].skip = 2; }),
       "layer 2 'second' adds the result of layer 2");
  says(broken([](network& n) { n.layers[1].skip = 0; }),
       "layer 2 'second' has 8 outputs but adds 6");
  says(broken([](network& n) {
         n.layers[1].inputs = 4;
         n.layers[1].weights.resize(32);
       }),
       "layer 2 'second' has 4 inputs");
  says(broken([](network& n) { n.input.scale.pop_back(); }), "input scale has 5 numbers");
  CHECK_THROWS_AS(activation_named("softplus"), std::invalid_argument);
}
