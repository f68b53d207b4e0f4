#pragma once

// Before Highway's headers: what its kernels are not compiled for, since machines that old run plain code as well and
// each instruction set costs a minute of everybody's build. The same everywhere, so that kernels agree on the lanes of
// a vector.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
