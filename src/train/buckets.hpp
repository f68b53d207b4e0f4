#pragma once

#include <vector>

#include "core/slice.hpp"
#include "nn/model_state.hpp"
#include "syncbn/train/config.hpp"

namespace syncbn {

/// Cuts the exchanged part of the flat gradient into buckets in the order in which backward completes it: from the last
/// layer to the first.
struct BucketPlan {
  std::vector<Slice> buckets;
  std::vector<int> completed_by;  ///< per layer: the bucket that is complete once this layer's gradient is, or -1
};

/// config.bucket_kib or its default: small enough for a CPU's cache, or large enough to keep the links of devices busy.
std::int64_t bucket_bytes(const Config& config);

BucketPlan plan_buckets(const ModelState& state, std::int64_t bytes);

}  // namespace syncbn
