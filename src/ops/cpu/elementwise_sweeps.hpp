#pragma once

// Elementwise sweeps over plain runs of f32, compiled for several instruction sets. Each result depends only on the
// operands at the same index.

#include <cstdint>

#include "ops/backend.hpp"

namespace syncbn::ops::cpu {

struct ActivationSweep {
  Activation kind;
  float slope;  ///< for leaky_relu
  const float* x;
  float* y;
  std::int64_t count;
};
void run(const ActivationSweep& s);

struct ActivationBackwardSweep {
  Activation kind;
  float slope;
  const float *y, *dy;
  float* dx;
  std::int64_t count;
  bool accumulate;
};
void run(const ActivationBackwardSweep& s);

/// y = a + b; y may be a or b.
void add(const float* a, const float* b, float* y, std::int64_t count);

bool contains_nan(const float* x, std::int64_t count);

}  // namespace syncbn::ops::cpu
