// amx_kernels.cpp: products of networks in bfloat16 by the matrix instructions of AMX. Compiled for that alone.
#include <immintrin.h>

#include <cstdint>

#include "surrogate/bf16_table.h"

namespace betatron::surrogate {

namespace {

struct alignas(64) tile_configuration {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
};

/// Eight tiles of 16 rows of 64 bytes: 16 x 16 sums, 16 x 32 weights, 16 pairs x 16 particles.
constexpr tile_configuration all_tiles() {
  tile_configuration t;
  for (int i = 0; i < 8; ++i) {
    t.row_bytes[i] = 64;
    t.rows[i] = 16;
  }
  return t;
}
constexpr tile_configuration configuration = all_tiles();

void begin() { _tile_loadconfig(&configuration); }
void end() { _tile_release(); }

// Tiles 0 ... 3 hold sums, 4 and 5 weights, 6 and 7 particles; the numbers of tiles are part of the instructions.
template <int Tiles, int Packs>
void multiply_block(const bf16_product& p) {
  constexpr std::size_t stride = Packs * 64;
  float* sums = p.sums;
  if (p.first) {
    _tile_zero(0);
    if constexpr (Packs == 2) _tile_zero(1);
    if constexpr (Tiles == 2) _tile_zero(2);
    if constexpr (Tiles == 2 && Packs == 2) _tile_zero(3);
  } else {
    _tile_loadd(0, sums, stride);
    if constexpr (Packs == 2) _tile_loadd(1, sums + 16, stride);
    if constexpr (Tiles == 2) _tile_loadd(2, sums + 16 * Packs * 16, stride);
    if constexpr (Tiles == 2 && Packs == 2) _tile_loadd(3, sums + 16 * Packs * 16 + 16, stride);
  }
  const std::uint16_t* w = p.weights;
  const std::uint32_t* x = p.x;
  for (std::size_t s = 0; s < p.steps; ++s) {
    _tile_loadd(6, x, stride);
    _tile_loadd(4, w, 64);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (Packs == 2) {
      _tile_loadd(7, x + 16, stride);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (Tiles == 2) {
      _tile_loadd(5, w + 512, 64);
      _tile_dpbf16ps(2, 5, 6);
    }
    if constexpr (Tiles == 2 && Packs == 2) _tile_dpbf16ps(3, 5, 7);
    w += Tiles * 512;
    x += 16 * Packs * 16;
  }
  _tile_stored(0, sums, stride);
  if constexpr (Packs == 2) _tile_stored(1, sums + 16, stride);
  if constexpr (Tiles == 2) _tile_stored(2, sums + 16 * Packs * 16, stride);
  if constexpr (Tiles == 2 && Packs == 2) _tile_stored(3, sums + 16 * Packs * 16 + 16, stride);
}

void multiply(const bf16_product& p) {
  if (p.tiles == 2) {
    p.packs == 2 ? multiply_block<2, 2>(p) : multiply_block<2, 1>(p);
  } else {
    p.packs == 2 ? multiply_block<1, 2>(p) : multiply_block<1, 1>(p);
  }
}

}  // namespace

extern const bf16_products bf16_products_amx;
constinit const bf16_products bf16_products_amx = {begin, end, multiply, "amx-bf16"};

}  // namespace betatron::surrogate
