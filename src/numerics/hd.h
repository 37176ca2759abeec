// hd.h: the one place that knows how a function is marked for the device.
#pragma once

#if defined(__CUDACC__) || defined(__HIPCC__)
#define BETATRON_HD __host__ __device__
#else
#define BETATRON_HD
#endif

// Kernels are compiled once per instruction set into one library. A function that is not forced inline
// could be emitted with AVX-512 instructions and then be the copy that the linker keeps for everybody.
// Under a sanitizer every line of such a function becomes many, so that other sources call it instead.
#if !defined(BETATRON_ISA) && defined(BETATRON_SANITIZED)
#define BETATRON_INLINE BETATRON_HD inline
#else
#define BETATRON_INLINE BETATRON_HD inline __attribute__((always_inline))
#endif
