// What a table costs over raw arrays: the same loop, a thick linear quadrupole as one
// drift-kick-drift over six columns of doubles, through every interface of soa and by hand over
// bare pointers.
//
//   soa [FILE]
//
// prints a table, nanoseconds per row (best of many runs, one thread), and writes it as JSON to
// FILE (default benchmarks/results/soa.json).
//
// "by hand" runs over the memory of the table, so that only the interface differs. Two more show
// why the table lays out its columns as it does: "arrays a page apart" all start at the same
// address modulo 4096 bytes, on a cache line; "std::vectors" lie as the allocator has them.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "soa/soa.h"

namespace soa = betatron::soa;

namespace {

using particles =
    soa::table<soa::column<"x", double>, soa::column<"px", double>, soa::column<"y", double>,
               soa::column<"py", double>, soa::column<"t", double>, soa::column<"pt", double>>;
using particles_aos = particles::with_layout<soa::layout::aos>;

// No iteration depends on another. Said to the compiler, for otherwise it would test the overlap of
// all pairs of six arrays, or not vectorise at all.
#if defined(__clang__)
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#endif

struct particle {
  double x, px, y, py, t, pt;
};

constexpr double half_length = 0.05;
constexpr double strength = 0.1;
constexpr double slip = 1e-5;

[[gnu::noinline]] void by_hand(double* x, double* px, double* y, double* py, double* t,
                               const double* pt, std::size_t n) {
  INDEPENDENT
  for (std::size_t i = 0; i < n; ++i) {
    const double xm = x[i] + half_length * px[i];
    const double ym = y[i] + half_length * py[i];
    px[i] -= strength * xm;
    py[i] += strength * ym;
    x[i] = xm + half_length * px[i];
    y[i] = ym + half_length * py[i];
    t[i] += slip * pt[i];
  }
}

[[gnu::noinline]] void by_columns(particles& p) {
  const auto x = p.get<"x">(), px = p.get<"px">(), y = p.get<"y">(), py = p.get<"py">();
  const auto t = p.get<"t">(), pt = p.get<"pt">();
  const std::size_t n = p.size();
  INDEPENDENT
  for (std::size_t i = 0; i < n; ++i) {
    const double xm = x[i] + half_length * px[i];
    const double ym = y[i] + half_length * py[i];
    px[i] -= strength * xm;
    py[i] += strength * ym;
    x[i] = xm + half_length * px[i];
    y[i] = ym + half_length * py[i];
    t[i] += slip * pt[i];
  }
}

// One row; the references may be to a struct, a row of a table, or anything else.
[[gnu::always_inline]] inline void push(double& x, double& px, double& y, double& py, double& t,
                                        const double& pt) {
  const double xm = x + half_length * px;
  const double ym = y + half_length * py;
  px -= strength * xm;
  py += strength * ym;
  x = xm + half_length * px;
  y = ym + half_length * py;
  t += slip * pt;
}

[[gnu::noinline]] void by_rows(particles::view_type rows) {
  INDEPENDENT
  for (auto [x, px, y, py, t, pt] : rows) push(x, px, y, py, t, pt);
}

[[gnu::noinline]] void by_index(particles& p) {
  INDEPENDENT
  for (std::size_t i = 0; i < p.size(); ++i) {
    auto [x, px, y, py, t, pt] = p[i];
    push(x, px, y, py, t, pt);
  }
}

[[gnu::noinline]] void structures_by_hand(particle* p, std::size_t n) {
  INDEPENDENT
  for (std::size_t i = 0; i < n; ++i) push(p[i].x, p[i].px, p[i].y, p[i].py, p[i].t, p[i].pt);
}

[[gnu::noinline]] void structures_by_rows(particles_aos::view_type rows) {
  INDEPENDENT
  for (auto [x, px, y, py, t, pt] : rows) push(x, px, y, py, t, pt);
}

template <class Rows>
void fill(Rows rows) {
  double value = 1e-3;
  for (auto r : rows) {
    r = typename particles::value_type(value, -value, 2 * value, value, 0.0, value);
    value = -0.99 * value + 1e-6;
  }
}

struct result {
  std::string variant;
  std::size_t rows;
  double ns_per_row;
  double ratio_to_by_hand;
};

// A loop to time, and the one it is compared with.
struct variant {
  std::string name;
  std::size_t compared_with;
  std::function<void()> run;
};

// Best time of each variant over n rows. They take turns, so that a slow spell of the machine meets
// all; a turn is long enough for the cache to hold what it can of the variant's own rows.
std::vector<result> measure(std::size_t n) {
  particles t(n);
  particles_aos t_aos(n);
  fill(t.view());
  fill(t_aos.view());
  std::vector<particle> structures(n, {1e-3, 1e-3, 1e-3, 1e-3, 0, 1e-3});
  std::array<std::vector<double>, 6> vectors;
  vectors.fill(std::vector<double>(n, 1e-3));

  constexpr std::size_t page = 4096;
  const std::size_t stride = (n * sizeof(double) + page - 1) / page * page / sizeof(double);
  std::vector<double> pages(6 * stride + page / sizeof(double), 1e-3);
  void* aligned = pages.data();
  std::size_t space = pages.size() * sizeof(double);
  auto* const a =
      static_cast<double*>(std::align(page, 6 * stride * sizeof(double), aligned, space));

  const std::vector<variant> variants{
      {"soa by hand, bare pointers", 0,
       [&] {
         by_hand(t.data<"x">(), t.data<"px">(), t.data<"y">(), t.data<"py">(), t.data<"t">(),
                 t.data<"pt">(), n);
       }},
      {"soa, columns t.get<x>()[i]", 0, [&] { by_columns(t); }},
      {"soa, rows of a view", 0, [&] { by_rows(t.view()); }},
      {"soa, t[i]", 0, [&] { by_index(t); }},
      {"soa by hand, arrays a page apart", 0,
       [&] {
         by_hand(a, a + stride, a + 2 * stride, a + 3 * stride, a + 4 * stride, a + 5 * stride, n);
       }},
      {"soa by hand, std::vectors", 0,
       [&] {
         by_hand(vectors[0].data(), vectors[1].data(), vectors[2].data(), vectors[3].data(),
                 vectors[4].data(), vectors[5].data(), n);
       }},
      {"aos by hand, array of struct", 6, [&] { structures_by_hand(structures.data(), n); }},
      {"aos, rows of a view", 6, [&] { structures_by_rows(t_aos.view()); }},
  };

  using clock = std::chrono::steady_clock;
  const std::size_t passes = std::max<std::size_t>(1, 100000 / n);
  std::vector<double> best(variants.size(), std::numeric_limits<double>::infinity());
  for (int round = 0; round < 10; ++round) {
    for (std::size_t v = 0; v < variants.size(); ++v) {
      for (int turn = 0; turn < 10; ++turn) {
        const auto start = clock::now();
        for (std::size_t i = 0; i < passes; ++i) variants[v].run();
        const std::chrono::duration<double, std::nano> time = clock::now() - start;
        best[v] = std::min(best[v], time.count() / static_cast<double>(passes * n));
      }
    }
  }

  std::vector<result> results;
  for (std::size_t v = 0; v < variants.size(); ++v) {
    results.push_back({variants[v].name, n, best[v], best[v] / best[variants[v].compared_with]});
  }
  return results;
}

// Prints one line per variant; `columns` holds the results of each number of rows.
void print(const std::vector<std::vector<result>>& columns) {
  std::printf("%-33s", "ns per row (ratio to by hand)");
  for (const auto& column : columns) std::printf("%11zu rows", column[0].rows);
  std::printf("\n");
  for (std::size_t v = 0; v < columns[0].size(); ++v) {
    std::printf("%-33s", columns[0][v].variant.c_str());
    for (const auto& column : columns) {
      std::printf("%9.3f (%.2f)", column[v].ns_per_row, column[v].ratio_to_by_hand);
    }
    std::printf("\n");
  }
}

bool write_json(const std::vector<std::vector<result>>& columns,
                const std::filesystem::path& file) {
  if (file.has_parent_path()) std::filesystem::create_directories(file.parent_path());
  std::ofstream out(file);
  out << "{\n  \"benchmark\": \"soa\",\n  \"unit\": \"ns per row\",\n  \"results\": [";
  const char* separator = "\n";
  for (const auto& column : columns) {
    for (const result& r : column) {
      out << separator << "    {\"variant\": \"" << r.variant << "\", \"rows\": " << r.rows
          << ", \"value\": " << r.ns_per_row << ", \"ratio_to_by_hand\": " << r.ratio_to_by_hand
          << "}";
      separator = ",\n";
    }
  }
  out << "\n  ]\n}\n";
  return static_cast<bool>(out.flush());
}

}  // namespace

int main(int argc, char** argv) {
  const std::filesystem::path file = argc > 1 ? argv[1] : "benchmarks/results/soa.json";
  std::vector<std::vector<result>> columns;
  for (std::size_t n : {1000u, 10000u, 100000u, 1000000u}) columns.push_back(measure(n));
  print(columns);
  if (!write_json(columns, file)) {
    std::cerr << "soa: cannot write " << file << '\n';
    return EXIT_FAILURE;
  }
  return EXIT_SUCCESS;
}
