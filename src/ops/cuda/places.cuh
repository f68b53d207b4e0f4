#pragma once

// Where the values of a tensor lie, in any layout, for kernels with one thread per value or per vector of channels.

#include <cstdint>
#include <string>

#include "ops/cuda/runtime.cuh"
#include "syncbn/core/error.hpp"
#include "syncbn/core/tensor.hpp"

namespace syncbn::ops::cuda {

/// The offset of a value (n, c, i) of a tensor.
struct Places {
  unsigned channels, spatial;
  bool channels_last;

  explicit Places(const Tensor& t) : Places(t, t.shape) {}
  /// The same values seen as another shape; rows [N, F] have the same order in every layout.
  Places(const Tensor& t, const Shape& shape)
      : channels(static_cast<unsigned>(shape.c())),
        spatial(static_cast<unsigned>(shape.spatial())),
        channels_last(t.layout == Layout::channels_last && t.shape.rank() > 2) {}
  __device__ std::size_t at(unsigned n, unsigned c, unsigned i) const {
    const std::size_t sample = n;
    return channels_last ? (sample * spatial + i) * channels + c : (sample * channels + c) * spatial + i;
  }
  bool operator==(const Places&) const = default;
  /// Distance from a position to the next.
  __device__ unsigned stride() const { return channels_last ? channels : 1; }
};

/// (n, c, i) of the first value of vector k of a tensor. Vectors are kWidth neighbouring channels; with channels first,
/// 1.
template <int kWidth>
struct Spot {
  unsigned n, c, i;

  __device__ Spot(const Places& places, unsigned k) {
    if (places.channels_last) {
      const unsigned vectors = places.channels / kWidth;
      c = k % vectors * kWidth, k /= vectors;
      i = k % places.spatial, n = k / places.spatial;
    } else {
      i = k % places.spatial, k /= places.spatial;
      c = k % places.channels, n = k / places.channels;
    }
  }
};

__device__ inline unsigned this_thread() {
  return blockIdx.x * blockDim.x + threadIdx.x;
}

/// Checks that `count` threads can be numbered with 32 bits, and returns their number.
inline unsigned threads_for(std::int64_t count) {
  constexpr std::int64_t kMost = (std::int64_t{1} << 31) - 1;
  if (count > kMost)
    throw DeviceError(
        "CUDA: a kernel of " + std::to_string(count) + " threads: at most " + std::to_string(kMost) + " are possible",
        "use smaller batches");
  return static_cast<unsigned>(count);
}

}  // namespace syncbn::ops::cuda
