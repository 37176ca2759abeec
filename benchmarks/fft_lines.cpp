// fft_lines.cpp: the transforms of the Poisson solver beside those of FFTW, on one core. Built where FFTW is found.
//
//   build/benchmarks/fft_lines
//
// "lines": complex lines in place, there and back, a batch that stays in cache. Ours: as many side by side as a vector
// register holds, frequencies in the order of decimation. FFTW: the same number, one after another or interleaved,
// whichever is faster; its frequencies are sorted, which a convolution does not need.
//
// "plane": what the solver does with each of its planes. n x n complex numbers, padded with zeros to 2n x 2n, times a
// real and even function in frequency. Ours: the kernel of the solver. FFTW: transforms of the n rows that are not zero,
// of all columns, product, and back.
//
// FFTW may try for 4 s per plan (FFTW_PATIENT). Both use what the processor has. The least of many repetitions counts.
#include <fftw3.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <type_traits>
#include <vector>

#include "fields/fft_lines.h"
#include "fields/fft_plan.h"
#include "fields/huge_array.h"
#include "fields/kernel_table.h"
#include "numerics/native_vector.h"
#include "numerics/pack.h"

namespace {

using namespace betatron;

struct isa_of_this_file;  // keeps the packs apart from those of the library

/// The two interfaces of FFTW as one.
template <class F>
struct fftw;

template <>
struct fftw<double> {
  using plan = fftw_plan;
  using number = fftw_complex;
  static plan many(int n, int count, number* data, int stride, int distance, int sign) {
    fftw_set_timelimit(4);
    return fftw_plan_many_dft(1, &n, count, data, nullptr, stride, distance, data, nullptr, stride,
                              distance, sign, FFTW_PATIENT);
  }
  static void run(plan p) { fftw_execute(p); }
  static void drop(plan p) { fftw_destroy_plan(p); }
};

template <>
struct fftw<float> {
  using plan = fftwf_plan;
  using number = fftwf_complex;
  static plan many(int n, int count, number* data, int stride, int distance, int sign) {
    fftwf_set_timelimit(4);
    return fftwf_plan_many_dft(1, &n, count, data, nullptr, stride, distance, data, nullptr, stride,
                               distance, sign, FFTW_PATIENT);
  }
  static void run(plan p) { fftwf_execute(p); }
  static void drop(plan p) { fftwf_destroy_plan(p); }
};

/// Seconds of work(): the least of repetitions, each long enough to be timed, over a quarter of a second.
template <class Work>
double least(Work&& work) {
  using clock = std::chrono::steady_clock;
  const auto seconds = [](clock::duration d) { return std::chrono::duration<double>(d).count(); };
  double best = 1e300;
  int repetitions = 1;
  for (const auto start = clock::now(); seconds(clock::now() - start) < 0.25;) {
    const auto begin = clock::now();
    for (int i = 0; i < repetitions; ++i) work();
    const double taken = seconds(clock::now() - begin);
    if (taken < 1e-4) {
      repetitions *= 2;
    } else {
      best = std::min(best, taken / repetitions);
    }
  }
  return best;
}

struct timing {
  double ours, fftw;
};

template <class F>
timing lines(std::size_t n) {
  constexpr int width = numerics::vector_bytes / static_cast<int>(sizeof(F));
  using pack = numerics::pack<F, width, isa_of_this_file>;
  using complex = fields::complex_lanes<pack>;
  const fields::axis_plan<F> axis(n);  // fft_view is made of its plan of length m = n
  const fields::fft_view<F> view = fields::view_of(axis).complex;
  fields::huge_array<complex> z(n);
  for (std::size_t i = 0; i < n; ++i) z[i] = {pack(F(0)), pack(F(0))};  // values do not matter
  const double ours = least([&] {
    fields::transform(view, z.data());
    fields::transform_back(view, z.data());
  });

  using library = fftw<F>;
  fields::huge_array<typename library::number> data(n * static_cast<std::size_t>(width));
  const int length = static_cast<int>(n);
  double theirs = 1e300;
  for (const bool interleaved : {false, true}) {
    const int stride = interleaved ? width : 1, distance = interleaved ? 1 : length;
    const auto there = library::many(length, width, data.data(), stride, distance, FFTW_FORWARD);
    const auto back = library::many(length, width, data.data(), stride, distance, FFTW_BACKWARD);
    std::fill_n(&data[0][0], 2 * n * static_cast<std::size_t>(width), F(0));
    theirs = std::min(theirs, least([&] {
                        library::run(there);
                        library::run(back);
                      }));
    library::drop(there);
    library::drop(back);
  }
  return {ours / (2 * width), theirs / (2 * width)};
}

template <class F>
timing plane(std::size_t n) {
  const fields::field_kernels<F>& k = fields::kernels<F>();
  const fields::axis_plan<F> axis(n);
  const fields::axis_view<F> view = fields::view_of(axis);
  const std::size_t row = (n + k.width - 1) / k.width * k.width;
  const std::size_t green_row = (axis.m + k.width) / k.width * k.width;
  fields::huge_array<F> numbers(2 * row * n), green(green_row * (axis.m + 1)),
      work(fields::plane_work(view, view, k.width));
  std::fill_n(numbers.data(), numbers.size(), F(0));
  std::fill_n(green.data(), green.size(), F(0));
  const double ours = least([&] {
    k.convolve(view, view, numbers.data(), numbers.data() + row * n, row, green.data(), green_row,
               work.data());
  });

  using library = fftw<F>;
  const std::size_t m = 2 * n;
  const int length = static_cast<int>(m), half = static_cast<int>(n);
  fields::huge_array<typename library::number> data(m * m), kept(n * n);
  fields::huge_array<F> factor(m * m);
  typename library::plan plans[4] = {
      library::many(length, half, data.data(), 1, length, FFTW_FORWARD),
      library::many(length, length, data.data(), length, 1, FFTW_FORWARD),
      library::many(length, length, data.data(), length, 1, FFTW_BACKWARD),
      library::many(length, half, data.data(), 1, length, FFTW_BACKWARD)};
  std::fill_n(&data[0][0], 2 * m * m, F(0));
  std::fill_n(&kept[0][0], 2 * n * n, F(0));
  std::fill_n(factor.data(), m * m, F(0));
  const double theirs = least([&] {
    for (std::size_t i = 0; i < m; ++i) {  // the numbers come in, with their zeros
      F* to = &data[i * m][0];
      if (i < n) std::copy_n(&kept[i * n][0], 2 * n, to);
      std::fill(to + (i < n ? m : 0), to + 2 * m, F(0));
    }
    library::run(plans[0]);
    library::run(plans[1]);
    for (std::size_t i = 0; i < m * m; ++i) {
      data[i][0] *= factor[i];
      data[i][1] *= factor[i];
    }
    library::run(plans[2]);
    library::run(plans[3]);
    for (std::size_t i = 0; i < n; ++i) std::copy_n(&data[i * m][0], 2 * n, &kept[i * n][0]);
  });
  for (const auto p : plans) library::drop(p);
  return {ours, theirs};
}

template <class F>
void report(const char* precision) {
  for (const std::size_t n : {64u, 96u, 128u, 192u, 256u, 320u, 512u}) {
    const timing t = lines<F>(n);
    std::printf("line   %4zu  %-7s %10.1f ns %10.1f ns  %5.2f\n", n, precision, t.ours * 1e9,
                t.fftw * 1e9, t.fftw / t.ours);
    std::fflush(stdout);
  }
  for (const std::size_t n : {64u, 128u, 256u}) {
    const timing t = plane<F>(n);
    std::printf("plane  %4zu  %-7s %10.1f us %10.1f us  %5.2f\n", n, precision, t.ours * 1e6,
                t.fftw * 1e6, t.fftw / t.ours);
    std::fflush(stdout);
  }
}

}  // namespace

int main() {
  std::printf("%s beside instruction set %s\n", fftw_version, fields::kernels<double>().isa);
  std::printf("what      n  precision       ours           FFTW  FFTW/ours\n");
  report<double>("double");
  report<float>("single");
}
