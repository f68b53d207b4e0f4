#include "train/buckets.hpp"

namespace syncbn {

std::int64_t bucket_bytes(const Config& config) {
  constexpr std::int64_t kKib = 256, kKibOfDevices = 8192;
  const std::int64_t kib = config.bucket_kib > 0 ? config.bucket_kib : config.device == "cpu" ? kKib : kKibOfDevices;
  return kib * 1024;
}

BucketPlan plan_buckets(const ModelState& state, std::int64_t bytes) {
  BucketPlan plan;
  const int layers = static_cast<int>(state.model().layers.size());
  plan.completed_by.assign(static_cast<std::size_t>(layers), -1);
  std::int64_t end = state.exchanged_size();
  int lowest = -1;  // the lowest layer of the bucket that is being filled
  const auto close = [&](std::int64_t begin) {
    if (begin == end) return;
    plan.completed_by[lowest] = static_cast<int>(plan.buckets.size());
    plan.buckets.push_back({begin, end - begin});
    end = begin;
  };
  for (int l = layers - 1; l > 0; --l) {
    const FlatRange range = state.exchanged(l);
    if (range.count == 0) continue;
    lowest = l;
    if ((end - range.offset) * static_cast<std::int64_t>(sizeof(float)) >= bytes) close(range.offset);
  }
  close(0);
  return plan;
}

}  // namespace syncbn
