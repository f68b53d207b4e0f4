#pragma once

#include "ops/cuda/runtime.cuh"

namespace syncbn::ops::cuda {

constexpr unsigned kWarp = 32;

/// The sum of `value` over a warp, in a fixed order; the same on all lanes.
__device__ inline double warp_sum(double value) {
  for (unsigned distance = kWarp / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(0xffffffffU, value, distance);
  }
  return value;
}

}  // namespace syncbn::ops::cuda
