#pragma once

// The ReLU behind a normalization: where it let a value pass.

#include <type_traits>

#include "ops/cuda/batch_norm.cuh"

namespace syncbn::ops::cuda {

/// Whether a sweep is compiled separately for each kind of ReLU: those with 16 bytes at a time in the convolutions'
/// layout.
template <bool kLast, int kWidth>
constexpr bool kFast = kLast&& kWidth > 1;

/// Calls run() with the kind of ReLU, as a type if wanted.
template <bool kAsType, class Run>
void visit_relu(FusedRelu relu, Run run) {
  if constexpr (kAsType) {
    switch (relu) {
      case FusedRelu::none:
        return run(std::integral_constant<FusedRelu, FusedRelu::none>{});
      case FusedRelu::recompute:
        return run(std::integral_constant<FusedRelu, FusedRelu::recompute>{});
      case FusedRelu::bits:
        return run(std::integral_constant<FusedRelu, FusedRelu::bits>{});
    }
  } else {
    run(relu);
  }
}

/// The map of a thread's channels, and the mask derived from it: forward and backward compute exactly the same number.
template <int kChannels>
struct Gate {
  float center[kChannels], scale[kChannels], shift[kChannels];

  __device__ Gate(const ChannelArrays& arrays, unsigned channel) {
    for (int k = 0; k < kChannels; ++k) {
      center[k] = arrays.center[channel + k];
      scale[k] = arrays.scale[channel + k];
      shift[k] = arrays.shift[channel + k];
    }
  }
  __device__ float map(float xc, int k) const { return fmaf(xc, scale[k], shift[k]); }
  /// dy where the ReLU passed, else 0. `bit`: the mask's bit, in the lowest bit.
  __device__ float pass(FusedRelu relu, float dy, float xc, int k, unsigned bit) const {
    if (relu == FusedRelu::none) return dy;
    const bool open = relu == FusedRelu::bits ? (bit & 1U) != 0 : map(xc, k) > 0;
    return open ? dy : 0.0f;
  }
};

}  // namespace syncbn::ops::cuda
