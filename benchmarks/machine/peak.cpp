// peak.cpp: how many operations one core can do at all: multiply-adds on registers, and products of tiles.
// benchmarks/surrogate.py compiles it for the processor at hand.
#include <chrono>
#include <cstdint>
#include <cstdio>

#if defined(__AMX_BF16__) && defined(__linux__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Operations per second, the best of some runs of body(), which does `operations`.
template <class Body>
double best(double operations, Body&& body) {
  double rate = 0;
  for (int i = 0; i < 300; ++i) {
    const double start = now();
    body();
    const double here = operations / (now() - start);
    if (here > rate) rate = here;
  }
  return rate;
}

#if defined(__AVX512F__)
constexpr int width = 16;
#elif defined(__AVX__)
constexpr int width = 8;
#else
constexpr int width = 4;
#endif
typedef float vec __attribute__((vector_size(width * 4)));

double multiply_adds() {
  constexpr long repetitions = 100000;
  return best(2.0 * width * 12 * repetitions, [] {
    // all different: the compiler may compute equal ones once
    vec a0 = vec{} + 0.0f, a1 = a0 + 1, a2 = a0 + 2, a3 = a0 + 3, a4 = a0 + 4, a5 = a0 + 5;
    vec a6 = a0 + 6, a7 = a0 + 7, a8 = a0 + 8, a9 = a0 + 9, a10 = a0 + 10, a11 = a0 + 11;
    const vec b = vec{} + 0.999999f, c = vec{} + 1e-3f;
#define STEP(a) a = a * b + c
    for (long i = 0; i < repetitions; ++i) {
      STEP(a0), STEP(a1), STEP(a2), STEP(a3), STEP(a4), STEP(a5);
      STEP(a6), STEP(a7), STEP(a8), STEP(a9), STEP(a10), STEP(a11);
    }
    const vec sum = a0 + a1 + a2 + a3 + a4 + a5 + a6 + a7 + a8 + a9 + a10 + a11;
    volatile float kept = sum[0];
    (void)kept;
  });
}

double tiles() {
#if defined(__AMX_BF16__) && defined(__linux__)
  if (syscall(SYS_arch_prctl, 0x1023, 18) != 0) return 0;
  struct alignas(64) {
    std::uint8_t palette = 1, start = 0, reserved[14] = {};
    std::uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } configuration;
  _tile_loadconfig(&configuration);
  constexpr long repetitions = 50000;
  const double rate = best(4 * 16384.0 * repetitions, [] {
    for (long i = 0; i < repetitions; ++i) {
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  });
  _tile_release();
  return rate;
#else
  return 0;
#endif
}

}  // namespace

int main() { std::printf("%g %g\n", multiply_adds() * 1e-9, tiles() * 1e-9); }
