// The only macros of the project.
#pragma once

// Functions that every backend inlines: on a GPU they exist on both sides, on a CPU they must take on the instruction
// set of their caller (a baseline copy of a cell could not call an AVX-512 operator).
#if defined(__CUDACC__)
#define RNNKERN_HD __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define RNNKERN_HD inline __attribute__((always_inline))
#else
#define RNNKERN_HD inline
#endif

#if defined(__x86_64__) && defined(__GNUC__)
#define RNNKERN_X86 1
#else
#define RNNKERN_X86 0
#endif

// Everything defined between BEGIN and END is compiled for `isa`, a string such as "avx2,fma". Standard headers must be
// included before BEGIN: an inline function compiled in here could be the copy that the linker keeps for every CPU.
#define RNNKERN_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define RNNKERN_TARGET_BEGIN(isa) \
  RNNKERN_PRAGMA(clang attribute push(__attribute__((target(isa))), apply_to = function))
#define RNNKERN_TARGET_END RNNKERN_PRAGMA(clang attribute pop)
#else
#define RNNKERN_TARGET_BEGIN(isa) RNNKERN_PRAGMA(GCC push_options) RNNKERN_PRAGMA(GCC target(isa))
#define RNNKERN_TARGET_END RNNKERN_PRAGMA(GCC pop_options)
#endif

// Loops over the rows and columns of a register tile must unroll, or the tile would live in memory. The two compilers of
// a CUDA file's host half take no pragma in common. Loops that wait should stay short.
#if defined(__CUDA_ARCH__)
#define RNNKERN_UNROLL RNNKERN_PRAGMA(unroll)
#define RNNKERN_NO_UNROLL RNNKERN_PRAGMA(unroll 1)
#elif defined(__GNUC__) && !defined(__CUDACC__)
#define RNNKERN_UNROLL RNNKERN_PRAGMA(GCC unroll 16)
#define RNNKERN_NO_UNROLL RNNKERN_PRAGMA(GCC unroll 1)
#else
#define RNNKERN_UNROLL
#define RNNKERN_NO_UNROLL
#endif
