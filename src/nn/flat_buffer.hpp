#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ops/device.hpp"

namespace syncbn {

/// Zeroed f32 values where kernels work. On a device with memory of its own the processor has a copy, which is as old
/// as the last fetch() or send(); else the two are the same memory, and these calls do nothing. The backend must
/// outlive it.
class FlatBuffer {
 public:
  FlatBuffer() = default;
  FlatBuffer(const ops::Backend& backend, std::int64_t count)
      : backend_(&backend), kernels_(backend.allocate(static_cast<std::size_t>(count) * sizeof(float))) {
    if (backend.device()) copy_ = Buffer(kernels_.size());
  }
  /// For kernels, and only for them on a device.
  std::span<float> kernels() const { return {kernels_.as<float>(), count()}; }
  /// For the processor.
  std::span<float> host() const { return copy_.size() > 0 ? std::span(copy_.as<float>(), count()) : kernels(); }
  /// Brings host() up to date. Waits.
  void fetch() const {
    if (copy_.size() > 0) backend_->download(kernels_.data(), copy_.data(), copy_.size());
  }
  /// Lets kernels see what host() holds.
  void send() const {
    if (copy_.size() > 0) backend_->upload(copy_.data(), kernels_.data(), copy_.size());
  }

 private:
  std::size_t count() const { return kernels_.size() / sizeof(float); }

  const ops::Backend* backend_ = nullptr;
  ops::Memory kernels_;
  Buffer copy_;  // on a device
};

/// Values in the kernels' memory, for the processor to read: themselves, or `copy`, which gets them. Waits.
inline std::span<const float> readable(const ops::Backend& backend, std::span<const float> values,
                                       std::vector<float>& copy) {
  if (!backend.device()) return values;
  copy.resize(values.size());
  backend.download(values.data(), copy.data(), values.size_bytes());
  return copy;
}

}  // namespace syncbn
