// config.h: how a function of this room is marked.
//
// Accessors run on the device too, and are forced inline: a program that compiles its kernels once
// per instruction set must not have the linker keep one AVX-512 copy of an accessor for everybody.
#pragma once

#if defined(__CUDACC__) || defined(__HIPCC__)
#define BETATRON_SOA_INLINE __host__ __device__ inline __attribute__((always_inline))
#else
#define BETATRON_SOA_INLINE inline __attribute__((always_inline))
#endif
