#pragma once

// The parts of the CUDA backend: the kernels of this folder behind the interfaces of ops/backend.hpp.

#include <memory>

#include "ops/backend.hpp"
#include "ops/cuda/libraries.cuh"
#include "ops/cuda/runtime.cuh"
#include "ops/device.hpp"

namespace syncbn::ops::cuda {

std::unique_ptr<BatchNormKernels> make_batch_norm(Queue& queue);
std::unique_ptr<WhiteningKernels> make_whitening(Queue& queue);
std::unique_ptr<Elementwise> make_elementwise(Queue& queue);
std::unique_ptr<Device> make_device(Queue& queue);
std::unique_ptr<GroupNormalization> make_group_normalization(Queue& queue, std::int64_t channels, std::int64_t groups,
                                                             double eps, std::int64_t max_samples);
std::unique_ptr<Updates> make_updates(Queue& queue, const std::vector<Updates::Slot>& slots);
std::unique_ptr<Pool> make_pool(Queue& queue, const PoolGeometry& g);
std::unique_ptr<Conv2dWeights> make_conv2d_weights(Queue& queue, const Conv2dGeometry& g, DataType type);
std::unique_ptr<ops::Conv2d> make_conv2d(Libraries& libraries, const Conv2dGeometry& g, Precision precision);
std::unique_ptr<ops::Linear> make_linear(Libraries& libraries, std::int64_t in, std::int64_t out, Precision precision);

/// The tensor's samples from `begin` on.
inline Tensor from_sample(const Tensor& t, std::int64_t begin) {
  Tensor part = t;
  if (part) part.data = t.as<std::byte>() + begin * t.sample_stride() * static_cast<std::int64_t>(size_of(t.type));
  return part;
}

/// Device memory for `count` values, kept from call to call.
template <class T>
class Staging {
 public:
  explicit Staging(Queue& queue) : queue_(queue) {}
  T* room(std::size_t count) {
    if (count * sizeof(T) > memory_.size()) memory_ = DeviceMemory(queue_, count * sizeof(T));
    return memory_.as<T>();
  }
  /// Copies values from CPU memory to the device. They may be changed on return.
  const T* upload(const T* values, std::size_t count) {
    T* to = room(count);
    queue_.upload(to, values, count * sizeof(T));
    return to;
  }

 private:
  Queue& queue_;
  DeviceMemory memory_;
};

}  // namespace syncbn::ops::cuda
