#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ops/device.hpp"

namespace syncbn {

/// Zeroed f32 values in the kernels' memory. On a device with memory of its own there is a copy in CPU memory, which is
/// as recent as the last fetch() or send(); otherwise the two are the same memory, and these calls do nothing. The
/// backend must outlive it.
class FlatBuffer {
 public:
  FlatBuffer() = default;
  FlatBuffer(const ops::Backend& backend, std::int64_t count)
      : backend_(&backend), kernels_(backend.allocate(static_cast<std::size_t>(count) * sizeof(float))) {
    if (backend.device()) copy_ = Buffer(kernels_.size());
  }
  /// The values for kernels; on a device nothing else may access them.
  std::span<float> kernels() const { return {kernels_.as<float>(), count()}; }
  /// The values for code on the CPU.
  std::span<float> host() const { return copy_.size() > 0 ? std::span(copy_.as<float>(), count()) : kernels(); }
  /// Updates host() from the kernels' memory. Waits.
  void fetch() const {
    if (copy_.size() > 0) backend_->download(kernels_.data(), copy_.data(), copy_.size());
  }
  /// Updates the kernels' memory from host().
  void send() const {
    if (copy_.size() > 0) backend_->upload(copy_.data(), kernels_.data(), copy_.size());
  }

 private:
  std::size_t count() const { return kernels_.size() / sizeof(float); }

  const ops::Backend* backend_ = nullptr;
  ops::Memory kernels_;
  Buffer copy_;  // CPU copy; used on a device
};

/// Makes values in the kernels' memory readable on the CPU: returns them, or `copy` after copying them there. Waits.
inline std::span<const float> readable(const ops::Backend& backend, std::span<const float> values,
                                       std::vector<float>& copy) {
  if (!backend.device()) return values;
  copy.resize(values.size());
  backend.download(values.data(), copy.data(), values.size_bytes());
  return copy;
}

}  // namespace syncbn
