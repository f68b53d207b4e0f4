#pragma once

#include <vector>

#include "nn/model_state.hpp"
#include "syncbn/comm/gradient_exchange.hpp"

namespace syncbn {

/// Cuts the exchanged part of the flat gradient into buckets in the order in which backward completes it: from the last
/// layer to the first.
struct BucketPlan {
  std::vector<GradientExchange::Bucket> buckets;
  std::vector<int> completed_by;  ///< per layer: the bucket that is complete once this layer's gradient is, or -1
};

BucketPlan plan_buckets(const ModelState& state, std::int64_t bucket_bytes);

}  // namespace syncbn
