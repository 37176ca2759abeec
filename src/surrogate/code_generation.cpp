// code_generation.cpp: a header of two parts: what all networks need, and the layers, numbers and memory of this one.
#include "surrogate/code_generation.h"

#include <algorithm>
#include <bit>
#include <cctype>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <sstream>
#include <stdexcept>

#include "betatron/version.h"
#include "surrogate/engine.h"
#include "surrogate/plan.h"

namespace betatron::surrogate {

namespace {

constexpr std::size_t group_rows = 6;  // as many outputs as the innermost loop of the code holds

constexpr std::string_view support = R"code(
#if !defined(__GNUC__)
#error "this code uses the vector extension of GCC and Clang"
#endif

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>

namespace @NAME@ {
namespace detail {

#if defined(__AVX512F__)
constexpr int width = 16, packs = 4;
#elif defined(__AVX__)
constexpr int width = 8, packs = 2;
#elif defined(__aarch64__)
constexpr int width = 4, packs = 4;
#else
constexpr int width = 4, packs = 2;
#endif
constexpr std::size_t block = width * packs;  // particles whose sums are held in registers

typedef float vec __attribute__((vector_size(width * 4)));
typedef std::int32_t ivec __attribute__((vector_size(width * 4)));

#define @NAME@_INLINE inline __attribute__((always_inline))

@NAME@_INLINE vec load(const float* p) {
  vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
@NAME@_INLINE void store(float* p, vec v) { std::memcpy(p, &v, sizeof v); }
@NAME@_INLINE vec all(float a) { return a - vec{}; }
@NAME@_INLINE vec select(ivec mask, vec a, vec b) { return (vec)((mask & (ivec)a) | (~mask & (ivec)b)); }
@NAME@_INLINE vec magnitude(vec a) { return (vec)((ivec)a & 0x7fffffff); }

@NAME@_INLINE vec exp(vec a) {
  const vec lowest = all(-87.3365447505531f), highest = all(88.7228390520684f);
  const vec x = select(a > lowest, select(a < highest, a, highest), lowest);
  const vec magic = all(12582912.0f);  // pushes the fraction out of the significand
  const vec n = (x * 1.44269504088896340736f + magic) - magic;
  vec r = x - n * 0.693359375f;
  r = r - n * -2.12194440054690583e-4f;
  vec p = all(1.0f / 5040);
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const ivec bits = ((ivec)(n + 12582911.0f) + 127) << 23;
  const vec value = p * (vec)bits * 2.0f;
  const vec upper = select(a > highest, all(__builtin_inff()), value);
  return select(a < lowest, vec{}, select(a == a, upper, a));
}
@NAME@_INLINE vec logistic(vec z) { return 1.0f / (1.0f + exp(-z)); }

template <std::size_t N>
@NAME@_INLINE vec polynomial(const float (&c)[N], vec z) {
  vec sum = all(c[N - 1]);
#pragma GCC unroll 16
  for (std::size_t i = N - 1; i > 0; --i) sum = sum * z + c[i - 1];
  return sum;
}

// Coefficients of tanh and of the error function: S. L. Moshier, Cephes Mathematical Library.
struct identity {
  static constexpr bool cheap = true;
  static @NAME@_INLINE vec apply(vec z, vec) { return z; }
};
struct relu {
  static constexpr bool cheap = true;
  static @NAME@_INLINE vec apply(vec z, vec) { return (vec)((ivec)z & ~(ivec)(z < 0.0f)); }  // NaN stays
};
struct prelu {
  static constexpr bool cheap = true;
  static @NAME@_INLINE vec apply(vec z, vec slope) { return select(z < 0.0f, z * slope, z); }
};
typedef prelu leaky_relu;
struct tanh {
  static constexpr bool cheap = false;
  static @NAME@_INLINE vec apply(vec z, vec) {
    const float p[] = {-3.33332819422e-1f, 1.33314422036e-1f, -5.37397155531e-2f, 2.06390887954e-2f,
                       -5.70498872745e-3f};
    const vec a = magnitude(z), u = z * z;
    const vec far = 1.0f - 2.0f / (exp(2.0f * a) + 1.0f);
    return select(a < 0.625f, z + z * u * polynomial(p, u), select(z < 0.0f, -far, far));
  }
};
struct sigmoid {
  static constexpr bool cheap = false;
  static @NAME@_INLINE vec apply(vec z, vec) { return logistic(z); }
};
struct silu {
  static constexpr bool cheap = false;
  static @NAME@_INLINE vec apply(vec z, vec) { return z * logistic(z); }
};
struct gelu {
  static constexpr bool cheap = false;
  static @NAME@_INLINE vec apply(vec z, vec) {
    const float t[] = {5.55923013010394962768e4f, 7.00332514112805075473e3f, 2.23200534594684319226e3f,
                       9.00260197203842689217e1f, 9.60497373987051638749f};
    const float u[] = {4.92673942608635921086e4f, 2.26290000613890934246e4f, 4.59432382970980127987e3f,
                       5.21357949780152679795e2f, 3.35617141647503099647e1f, 1.0f};
    const float p[] = {5.57535335369399327526e2f, 1.02755188689515710272e3f, 9.34528527171957607540e2f,
                       5.26445194995477358631e2f, 1.96520832956077098242e2f, 4.86371970985681366614e1f,
                       7.46321056442269912687f,   5.64189564831068821977e-1f, 2.46196981473530512524e-10f};
    const float q[] = {5.57535340817727675546e2f, 1.65666309194161350182e3f, 2.24633760818710981792e3f,
                       1.82390916687909736289e3f, 9.75708501743205489753e2f, 3.54937778887819891062e2f,
                       8.67072140885989742329e1f, 1.32281951154744992508e1f, 1.0f};
    const vec a = magnitude(z) * 0.70710678118654752440f;
    const vec b = select(a > 27.0f, all(27.0f), a), square = b * b;
    const vec erf = b * polynomial(t, square) / polynomial(u, square);
    const vec erfc = exp(-square) * polynomial(p, b) / polynomial(q, b);
    const vec upper = 0.5f * select(a < 1.0f, 1.0f - erf, erfc);
    return z * select(z < 0.0f, upper, 1.0f - upper);
  }
};
struct gelu_tanh {
  static constexpr bool cheap = false;
  static @NAME@_INLINE vec apply(vec z, vec) {
    return z * logistic(1.59576912160573071176f * (z + 0.044715f * z * z * z));
  }
};

/// What a layer is, beside its numbers.
template <std::size_t Inputs, std::size_t Outputs, class Activation, int Slopes, bool Inside>
struct layer {
  static constexpr std::size_t inputs = Inputs, outputs = Outputs;
  typedef Activation activation;
  static constexpr int slopes = Slopes;        // 0, 1, or Outputs
  static constexpr bool inside = Inside;       // what is added goes through the activation function
  static constexpr std::size_t groups = (Outputs + 5) / 6, small = Outputs / groups, larger = Outputs % groups;
  static constexpr std::size_t ranges = (Inputs + 127) / 128;
};

/// M outputs of N packs of particles, over some of the inputs.
template <class Layer, int M, int N>
void group(const float* w, const float* x, std::size_t inputs, const float* bias, const float* slope,
           const float* skip, float* y, bool first, bool last) {
  constexpr int stride = N * width;
  vec sum[M][N];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      sum[m][n] = first ? all(bias[m]) : load(y + m * stride + n * width);
      if (Layer::inside && first) sum[m][n] += load(skip + m * stride + n * width);
    }
  }
  for (std::size_t k = 0; k < inputs; ++k) {
    vec in[N];
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) in[n] = load(x + n * width);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const vec weight = all(w[m]);
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) sum[m][n] += weight * in[n];
    }
    x += stride;
    w += M;
  }
  const bool ends = last && Layer::activation::cheap;
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
    const vec s = Layer::slopes ? all(slope[Layer::slopes > 1 ? m : 0]) : vec{};
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      vec v = ends ? Layer::activation::apply(sum[m][n], s) : sum[m][n];
      if (ends && skip && !Layer::inside) v += load(skip + m * stride + n * width);
      store(y + m * stride + n * width, v);
    }
  }
  if (last && !Layer::activation::cheap) {
    for (int i = 0; i < M * stride; i += width) {
      vec v = Layer::activation::apply(load(y + i), vec{});
      if (skip && !Layer::inside) v += load(skip + i);
      store(y + i, v);
    }
  }
}

template <class Layer, int N>
void dense_block(const float* w, std::size_t begin, std::size_t end, const float* x, const float* bias,
                 const float* slope, const float* skip, float* y) {
  constexpr std::size_t stride = N * width;
  constexpr int small = static_cast<int>(Layer::small);
  constexpr int large = Layer::larger ? small + 1 : small;
  const bool first = begin == 0, last = end == Layer::inputs;
  x += begin * stride;
  for (std::size_t g = 0, row = 0; g < Layer::groups; ++g) {
    const float* s = Layer::slopes > 1 ? slope + row : slope;
    const float* more = skip ? skip + row * stride : nullptr;
    if (g < Layer::larger) {
      group<Layer, large, N>(w, x, end - begin, bias + row, s, more, y + row * stride, first, last);
      row += large;
      w += large * (end - begin);
    } else {
      group<Layer, small, N>(w, x, end - begin, bias + row, s, more, y + row * stride, first, last);
      row += small;
      w += small * (end - begin);
    }
  }
}

/// One layer for the particles of a panel, of which `lanes` fill whole packs.
template <class Layer>
void dense(const float* w, const float* bias, const float* slope, const float* x, const float* skip, float* y,
           std::size_t lanes) {
  for (std::size_t r = 0, begin = 0; r < Layer::ranges; ++r) {
    const std::size_t end = Layer::inputs * (r + 1) / Layer::ranges;
    for (std::size_t b = 0; b < lanes; b += block) {
      const std::size_t here = lanes - b < block ? (lanes - b) / width : packs;
      const float* more = skip ? skip + b * Layer::outputs : nullptr;
      const float* from = x + b * Layer::inputs;
      float* to = y + b * Layer::outputs;
      switch (here) {
        case 1: dense_block<Layer, 1>(w, begin, end, from, bias, slope, more, to); break;
        case 2: dense_block<Layer, 2>(w, begin, end, from, bias, slope, more, to); break;
#if defined(__AVX512F__) || defined(__aarch64__)
        case 3: dense_block<Layer, 3>(w, begin, end, from, bias, slope, more, to); break;
        default: dense_block<Layer, 4>(w, begin, end, from, bias, slope, more, to);
#endif
      }
    }
    w += (end - begin) * Layer::outputs;
    begin = end;
  }
}

template <class Real>
@NAME@_INLINE void enter(const Real* from, float* to, std::size_t count, std::size_t lanes, Real offset, Real scale) {
  for (std::size_t i = 0; i < count; ++i) to[i] = static_cast<float>((from[i] - offset) * scale);
  for (std::size_t i = count; i < lanes; ++i) to[i] = 0.0f;
}
template <class Real>
@NAME@_INLINE void leave(const float* from, Real* to, std::size_t count, Real offset, Real scale) {
  for (std::size_t i = 0; i < count; ++i) to[i] = static_cast<Real>(from[i]) * scale + offset;
}

}  // namespace detail
)code";

constexpr std::string_view evaluation = R"code(
/// Outputs of `count` particles: in[k] is the column of input k, out[k] that of output k (which may be one of the
/// inputs). Real is float or double. `memory` belongs to the call: one for each thread.
template <class Real>
void run(const Real* const* in, Real* const* out, std::size_t count, workspace& memory@WEIGHTS_ARGUMENT@) {
  for (std::size_t first = 0; first < count; first += panel) {
    const std::size_t some = count - first < panel ? count - first : panel;
    const std::size_t lanes = (some + detail::width - 1) / detail::width * detail::width;
    for (std::size_t b = 0; b < lanes; b += detail::block) {
      const std::size_t here = lanes - b < detail::block ? lanes - b : detail::block;
      const std::size_t valid = some - b < here ? some - b : here;
      for (std::size_t k = 0; k < inputs; ++k) {
        detail::enter(in[k] + first + b, memory.slot[@FIRST@] + b * inputs + k * here, valid, here,
                      static_cast<Real>(detail::input_offset[k]), static_cast<Real>(detail::input_scale[k]));
      }
    }
    detail::layers(memory, @WEIGHTS@, lanes);
    for (std::size_t b = 0; b < lanes; b += detail::block) {
      const std::size_t here = lanes - b < detail::block ? lanes - b : detail::block;
      const std::size_t valid = some - b < here ? some - b : here;
      for (std::size_t k = 0; k < outputs; ++k) {
        detail::leave(memory.slot[@LAST@] + b * outputs + k * here, out[k] + first + b, valid,
                      static_cast<Real>(detail::output_offset[k]), static_cast<Real>(detail::output_scale[k]));
      }
    }
  }
}

}  // namespace @NAME@

#undef @NAME@_INLINE
)code";

constexpr std::string_view loading = R"code(
/// The numbers of the network, from a file.
struct parameters {
  alignas(64) float numbers[number_count];
};

/// Reads the file of weights that was written with this header. False if it cannot be read or is another one.
inline bool load(parameters& p, const char* path) {
  std::FILE* file = std::fopen(path, "rb");
  if (!file) return false;
  char magic[8];
  std::uint64_t found[2];
  const bool read = std::fread(magic, 1, 8, file) == 8 && std::fread(found, 8, 2, file) == 2 &&
                    std::memcmp(magic, "BTNETW01", 8) == 0 && found[0] == number_count &&
                    std::fread(p.numbers, 4, number_count, file) == number_count;
  std::fclose(file);
  if (!read) return false;
  std::uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a of the 32-bit words
  for (std::size_t i = 0; i < number_count; ++i) {
    std::uint32_t word;
    std::memcpy(&word, p.numbers + i, 4);
    hash = (hash ^ word) * 0x100000001b3u;
  }
  return hash == found[1] && hash == @HASH@u;
}
)code";

std::string replaced(std::string_view text, std::string_view what, const std::string& by) {
  std::string result;
  std::size_t at = 0;
  for (std::size_t hit; (hit = text.find(what, at)) != text.npos; at = hit + what.size()) {
    result += text.substr(at, hit - at);
    result += by;
  }
  return result += text.substr(at);
}

std::string number(double v, const char* format, const char* suffix) {
  char text[64];
  std::snprintf(text, sizeof text, format, v);
  std::string s = text;
  if (s.find_first_of(".en") == s.npos) s += ".0";
  return s + suffix;
}

std::string list(const std::vector<double>& numbers) {
  std::string text;
  for (const double v : numbers) text += (text.empty() ? "" : ", ") + number(v, "%.17g", "");
  return text;
}

void check_name(const std::string& name) {
  const auto word = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; };
  if (name.empty() || std::isdigit(static_cast<unsigned char>(name[0])) || name[0] == '_' ||
      !std::ranges::all_of(name, word)) {
    throw std::invalid_argument("name = '" + name +
                                "' must be an identifier: letters, digits and _, a letter first");
  }
}

/// All numbers of a network in one row, and where those of each layer begin.
struct number_row {
  std::vector<float> numbers;
  struct place {
    std::size_t weights, bias, slope;
  };
  std::vector<place> layers;

  explicit number_row(const network& n) {
    for (const dense_layer& l : n.layers) {
      const packed_weights<float> w(
          l.inputs, l.outputs, group_rows,
          [&](std::size_t m, std::size_t k) { return l.weights[m * l.inputs + k]; });
      place p;
      p.weights = append(w.weights.data(), w.weights.data() + w.weights.size());
      std::vector<double> bias = l.bias;
      bias.resize(l.outputs, 0.0);
      p.bias = append(bias.begin(), bias.end());
      p.slope = append(l.slope.begin(), l.slope.end());
      layers.push_back(p);
    }
  }

 private:
  template <class Iterator>
  std::size_t append(Iterator begin, Iterator end) {
    numbers.resize((numbers.size() + 15) / 16 * 16, 0.0f);  // lines of the cache
    const std::size_t at = numbers.size();
    for (; begin != end; ++begin) numbers.push_back(static_cast<float>(*begin));
    return at;
  }
};

std::uint64_t hash_of(const std::vector<float>& numbers) {
  std::uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a of the 32-bit words
  for (const float v : numbers) hash = (hash ^ std::bit_cast<std::uint32_t>(v)) * 0x100000001b3u;
  return hash;
}

template <class T>
void append_bytes(std::vector<char>& to, const T* from, std::size_t count) {
  const char* bytes = reinterpret_cast<const char*>(from);
  to.insert(to.end(), bytes, bytes + count * sizeof(T));
}

std::string text_of_layers(const network& n, const number_row& row, const evaluation_plan& plan) {
  std::ostringstream out;
  out << "inline void layers(workspace& memory, const float* numbers, std::size_t lanes) {\n";
  for (std::size_t k = 1; k <= n.layers.size(); ++k) {
    const dense_layer& l = n.layers[k - 1];
    const number_row::place& p = row.layers[k - 1];
    const bool skips = l.skip >= 0;
    out << "  dense<layer<" << l.inputs << ", " << l.outputs << ", " << name_of(l.function) << ", "
        << l.slope.size() << ", " << (skips && l.skip_inside ? "true" : "false") << ">>(numbers + "
        << p.weights << ", numbers + " << p.bias << ", numbers + " << p.slope
        << ",\n      memory.slot[" << plan.forward[k - 1] << "], ";
    if (skips) {
      out << "memory.slot[" << plan.forward[static_cast<std::size_t>(l.skip)] << "]";
    } else {
      out << "nullptr";
    }
    out << ", memory.slot[" << plan.forward[k] << "], lanes);";
    if (!l.name.empty()) {
      std::string name = l.name;
      for (char& c : name) c = std::isprint(static_cast<unsigned char>(c)) && c != '\\' ? c : '?';
      out << "  // " << name;
    }
    out << "\n";
  }
  out << "}\n";
  return out.str();
}

}  // namespace

generated_code generate_header(const network& n, const std::string& name, bool include_weights) {
  check(n, largest_single);
  check_name(name);
  const number_row row(n);
  const evaluation_plan plan = make_plan(n);
  std::size_t widest = 0, bytes = 0;
  for (const dense_layer& l : n.layers) {
    widest = std::max({widest, l.inputs, l.outputs});
    bytes += l.weights.size() * sizeof(float);
  }
  const column_gate<float> gate(n);

  std::ostringstream out;
  out << "// " << name << ".h: a fully connected network with " << n.inputs() << " inputs, "
      << n.outputs() << " outputs and " << n.parameters()
      << " parameters, in single precision.\n// Generated by Betatron " << version
      << "; it depends on nothing else. Compile with optimisation for the processor at hand (-O3 "
         "-march=native).\n//\n//   static "
      << name << "::workspace memory;\n";
  if (!include_weights) {
    out << "//   static " << name << "::parameters numbers;\n//   " << name << "::load(numbers, \""
        << name << ".bin\");\n";
  }
  out << "//   " << name << "::run(in, out, count, memory" << (include_weights ? "" : ", numbers")
      << ");\n#pragma once\n";
  out << replaced(support, "@NAME@", name);
  out << "\nconstexpr std::size_t inputs = " << n.inputs() << ", outputs = " << n.outputs()
      << ", number_count = " << row.numbers.size()
      << ";\n\n/// Particles that go through all layers together.\nconstexpr std::size_t panel = "
         "detail::block";
  if (bytes > cached_weights) {
    const std::size_t particles = panel_bytes / (plan.forward_slots * widest * sizeof(float));
    out << " < " << particles << " ? " << particles
        << " / detail::block * detail::block : detail::block";
  }
  out << ";\n\n/// All memory that a call needs.\nstruct workspace {\n  alignas(64) float slot["
      << plan.forward_slots << "][" << widest << " * panel];\n};\n";
  if (include_weights) {
    out << "\nnamespace detail {\n\nalignas(64) inline constexpr float included[number_count] = {";
    for (std::size_t i = 0; i < row.numbers.size(); ++i) {
      out << (i % 8 == 0 ? "\n    " : " ")
          << number(static_cast<double>(row.numbers[i]), "%.9g", "f,");
    }
    out << "};\n";
  } else {
    out << replaced(loading, "@HASH@", std::to_string(hash_of(row.numbers)))
        << "\nnamespace detail {\n";
  }
  out << "\nconstexpr double input_offset[] = {" << list(gate.input.offset)
      << "};\nconstexpr double input_scale[] = {" << list(gate.input.scale)
      << "};\nconstexpr double output_offset[] = {" << list(gate.output.offset)
      << "};\nconstexpr double output_scale[] = {" << list(gate.output.scale) << "};\n\n"
      << text_of_layers(n, row, plan) << "\n}  // namespace detail\n";
  std::string last = replaced(evaluation, "@NAME@", name);
  last = replaced(last, "@WEIGHTS_ARGUMENT@", include_weights ? "" : ", const parameters& weights");
  last = replaced(last, "@WEIGHTS@", include_weights ? "detail::included" : "weights.numbers");
  last = replaced(last, "@FIRST@", std::to_string(plan.forward.front()));
  out << replaced(last, "@LAST@", std::to_string(plan.forward.back()));

  generated_code code{out.str(), {}};
  if (!include_weights) {
    const std::uint64_t numbers[2] = {row.numbers.size(), hash_of(row.numbers)};
    append_bytes(code.weights, "BTNETW01", 8);
    append_bytes(code.weights, numbers, 2);
    append_bytes(code.weights, row.numbers.data(), row.numbers.size());
  }
  return code;
}

}  // namespace betatron::surrogate
