#pragma once

// To be included before Highway's headers: the instruction sets that its kernels are not compiled for. SSE, since such
// old machines can run plain code and each instruction set costs a minute of every build; SVE, whose vectors have no
// size known at compile time and so cannot be members of an object, and CPUs that have it also have NEON. The same in
// all files, so that kernels agree on the lanes of a vector.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
