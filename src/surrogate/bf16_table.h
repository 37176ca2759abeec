// bf16_table.h: kernels for networks whose numbers have 8 significant bits (bfloat16).
//
// Features are stored in pairs: one 32-bit number per particle holds features 2j (low half) and 2j+1, as the dot-product
// and matrix instructions of x86 want them. Blocks have up to two packs of 16 particles; in a block, pairs follow each
// other. Weights lie in tiles of 16 outputs by 32 inputs, row by row, which are filled up with zeros.
#pragma once

#include <cstddef>
#include <cstdint>

#include "surrogate/kernel_table.h"

namespace betatron::surrogate {

inline constexpr std::size_t tile_outputs = 16, tile_inputs = 32;
inline constexpr std::size_t bf16_lanes = 16, bf16_packs = 2;

/// sum[m][i] (+)= sum_k w[m][k] x[k][i] for one or two tiles of outputs and one or two packs.
struct bf16_product {
  const std::uint16_t* weights;  ///< steps x tiles x 16 x 32
  const std::uint32_t* x;        ///< steps x 16 pairs x packs
  float* sums;                   ///< tiles x 16 rows x packs
  std::size_t steps, tiles, packs;
  bool first;
};

/// Sums to results: (sums + bias + before), through the activation function, + behind. What is null is left out.
struct bf16_result {
  const float* sums;        ///< rows x packs
  std::size_t rows, packs;  ///< rows: an even number
  const float* bias;        ///< one per row
  const float* slope;       ///< one per row, if the activation function has any
  activation function;
  const std::uint32_t *before, *behind;  ///< pairs
  std::uint32_t* z;                      ///< argument of the activation function, pairs
  std::uint32_t* pairs;                  ///< result, one of the two
  float* numbers;
};

struct bf16_products {
  void (*begin)();  ///< in each thread before multiply, and end() behind it
  void (*end)();
  void (*multiply)(const bf16_product&);
  const char* name;
};

struct bf16_kernels {
  void (*finish)(const bf16_result&);
  /// Rows of numbers to pairs; an odd count is filled up with 0.
  void (*to_pairs)(const float* from, std::uint32_t* to, std::size_t rows, std::size_t packs);
  /// gradient *= f'(z).
  void (*derive)(activation, const float* slope, const std::uint32_t* z, std::uint32_t* gradient,
                 std::size_t pairs, std::size_t packs);
  /// to += from.
  void (*add)(const std::uint32_t* from, std::uint32_t* to, std::size_t packs);
};

/// What serves this processor; null pointers if that is nothing. BETATRON_BF16=dot in the environment asks for dot
/// products instead of tiles, BETATRON_BF16=off for nothing, for tests.
struct bf16_support {
  const bf16_products* products = nullptr;
  const bf16_kernels* kernels = nullptr;
};
const bf16_support& find_bf16();

}  // namespace betatron::surrogate
