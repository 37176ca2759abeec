// native_vector.h: how wide the vectors are for which a kernel source is compiled. Only for such sources: the value
// differs between the sources of one library (and has internal linkage, so that each keeps its own).
#pragma once

namespace betatron::numerics {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
#elif defined(__AVX__)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif

}  // namespace betatron::numerics
