#pragma once

// Before Highway's headers: what its kernels are not compiled for. SSE, since machines that old run plain code as well
// and each instruction set costs a minute of everybody's build; SVE, whose vectors have no size that a compiler knows,
// so that no object can hold them: processors that have it have NEON too. The same everywhere, so that kernels agree on
// the lanes of a vector.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
