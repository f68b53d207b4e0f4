#pragma once

// Where the values of a tensor lie, in any layout, for kernels with a thread for each value or vector of channels.

#include <cstdint>
#include <string>

#include "ops/cuda/runtime.cuh"
#include "syncbn/core/error.hpp"
#include "syncbn/core/tensor.hpp"

namespace syncbn::ops::cuda {

/// Where a value (n, c, i) of a tensor lies.
struct Places {
  unsigned channels, spatial;
  bool channels_last;

  explicit Places(const Tensor& t) : Places(t, t.shape) {}
  /// The same values seen as another shape; a row [N, F] has one order only.
  Places(const Tensor& t, const Shape& shape)
      : channels(static_cast<unsigned>(shape.c())),
        spatial(static_cast<unsigned>(shape.spatial())),
        channels_last(t.layout == Layout::channels_last && t.shape.rank() > 2) {}
  __device__ std::size_t at(unsigned n, unsigned c, unsigned i) const {
    const std::size_t sample = n;
    return channels_last ? (sample * spatial + i) * channels + c : (sample * channels + c) * spatial + i;
  }
  bool operator==(const Places&) const = default;
  /// From a position to the next.
  __device__ unsigned stride() const { return channels_last ? channels : 1; }
};

/// (n, c, i) of the first value of vector k of a tensor. Vectors are kWidth neighbouring channels; channels first, 1.
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

/// As many threads, whose numbers have 32 bits.
inline unsigned threads_for(std::int64_t count) {
  constexpr std::int64_t kMost = (std::int64_t{1} << 31) - 1;
  if (count > kMost)
    throw DeviceError(
        "CUDA: a kernel of " + std::to_string(count) + " threads: at most " + std::to_string(kMost) + " are possible",
        "use smaller batches");
  return static_cast<unsigned>(count);
}

}  // namespace syncbn::ops::cuda
