// code_generation.h: from a network to a C++ header that evaluates it, without Betatron or anything else.
#pragma once

#include <string>
#include <vector>

#include "surrogate/network.h"

namespace betatron::surrogate {

struct generated_code {
  std::string header;         ///< C++17 for GCC and Clang
  std::vector<char> weights;  ///< file of weights that it reads; empty if they are in the header
};

/// `name`: the namespace that everything is in. The code computes in single precision, with all memory planned when it
/// is compiled. Throws std::invalid_argument as check(network) does, and for a name that is no identifier.
generated_code generate_header(const network&, const std::string& name, bool include_weights);

}  // namespace betatron::surrogate
