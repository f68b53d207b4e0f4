#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "syncbn/nn/model.hpp"

namespace syncbn::bench {

/// The convolutions of a model's training step and nothing else, for n samples on one thread: forward, gradient of the
/// input (but for the first), gradient of the weights, in whatever formats oneDNN likes best. What a training with
/// these convolutions cannot exceed.
class ConvolutionsOnly {
 public:
  ConvolutionsOnly(const Model& model, std::int64_t n);
  ~ConvolutionsOnly();
  /// Calls `between` behind each layer's forward pass and ahead of its backward pass.
  void step(const std::function<void()>& between = [] {});

 private:
  struct Layer;
  std::vector<std::unique_ptr<Layer>> layers_;
};

}  // namespace syncbn::bench
