#pragma once

// Where a ReLU behind a normalization let a value pass.

#include "ops/cuda/batch_norm.cuh"

namespace syncbn::ops::cuda {

/// The map of a thread's channels, and the mask that follows from it: both passes compute the very same number.
template <int kChannels>
struct Gate {
  float center[kChannels], scale[kChannels], shift[kChannels];
  FusedRelu relu;

  __device__ Gate(const ChannelArrays& arrays, unsigned channel, FusedRelu kind) : relu(kind) {
    for (int k = 0; k < kChannels; ++k) {
      center[k] = arrays.center[channel + k];
      scale[k] = arrays.scale[channel + k];
      shift[k] = arrays.shift[channel + k];
    }
  }
  __device__ float map(float xc, int k) const { return fmaf(xc, scale[k], shift[k]); }
  /// dy where the ReLU passed, else 0. `bit`: the mask's, in the lowest bit.
  __device__ float pass(float dy, float xc, int k, unsigned bit) const {
    if (relu == FusedRelu::none) return dy;
    const bool open = relu == FusedRelu::bits ? (bit & 1U) != 0 : map(xc, k) > 0;
    return open ? dy : 0.0f;
  }
};

}  // namespace syncbn::ops::cuda
