#pragma once

// Tensors and arrays in a device's memory, for tests.

#include <limits>
#include <stdexcept>
#include <vector>

#include "ops/cuda/runtime.cuh"
#include "support/host_tensor.hpp"

namespace syncbn::test {

/// An array in device memory.
template <class T>
class DeviceArray {
 public:
  DeviceArray(ops::cuda::Queue& queue, std::size_t count)
      : queue_(&queue), count_(count), memory_(queue, count * sizeof(T)) {}
  DeviceArray(ops::cuda::Queue& queue, const std::vector<T>& values) : DeviceArray(queue, values.size()) {
    set(values);
  }
  void set(const std::vector<T>& values) const {
    queue_->copy(data(), values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice);
    queue_->synchronize();
  }
  T* data() const { return memory_.as<T>(); }
  std::vector<T> get() const { return read(*queue_, data(), count_); }

  static std::vector<T> read(ops::cuda::Queue& queue, const T* from, std::size_t count) {
    std::vector<T> values(count);
    queue.copy(values.data(), from, count * sizeof(T), cudaMemcpyDeviceToHost);
    queue.synchronize();
    return values;
  }

 private:
  ops::cuda::Queue* queue_;
  std::size_t count_;
  ops::cuda::DeviceMemory memory_;
};

/// A tensor in device memory, written and read as channels_first doubles. Unwritten values are NaN; nothing may be
/// written behind its end.
class DeviceTensor {
 public:
  DeviceTensor(ops::cuda::Queue& queue, const Shape& shape, DataType type, Layout layout)
      : queue_(&queue), host_(shape, type, layout), memory_(queue, host_.view().bytes() + kGuard) {
    set(Values(static_cast<std::size_t>(shape.elements()), std::numeric_limits<double>::quiet_NaN()));
  }
  DeviceTensor(ops::cuda::Queue& queue, const Shape& shape, DataType type, Layout layout, const Values& values)
      : DeviceTensor(queue, shape, type, layout) {
    set(values);
  }
  void set(const Values& values) {
    host_.set(values);
    queue_->copy(memory_.as<void>(), host_.view().data, host_.view().bytes(), cudaMemcpyHostToDevice);
    queue_->synchronize();
  }
  Tensor view() const {
    Tensor t = host_.view();
    t.data = memory_.as<void>();
    return t;
  }
  operator Tensor() const { return view(); }
  Values get() {
    queue_->copy(host_.view().data, memory_.as<void>(), host_.view().bytes(), cudaMemcpyDeviceToHost);
    const auto guard = DeviceArray<char>::read(*queue_, memory_.as<char>() + host_.view().bytes(), kGuard);
    if (guard != std::vector<char>(kGuard, 0)) throw std::logic_error("something was written behind a tensor");
    return host_.get();
  }

 private:
  static constexpr std::size_t kGuard = 256;
  ops::cuda::Queue* queue_;
  HostTensor host_;
  ops::cuda::DeviceMemory memory_;
};

}  // namespace syncbn::test
