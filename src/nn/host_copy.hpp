#pragma once

#include <vector>

#include "ops/backend.hpp"

namespace syncbn {

/// Shows what lies in the kernels' memory as f32 in CPU memory.
class HostCopy {
 public:
  /// The worker's backend must outlive it.
  explicit HostCopy(const ops::Backend& worker) : backend_(worker) {}

  /// Samples of x, in its layout: a copy that the next call overwrites, or x itself where that is in CPU memory. Waits
  /// for a device.
  Tensor operator()(const Tensor& x, ops::Samples samples);

 private:
  const ops::Backend& backend_;
  ops::Memory wide_;  // samples of another type in f32
  std::vector<float> copy_;
};

}  // namespace syncbn
