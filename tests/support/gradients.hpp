#pragma once

#include <algorithm>
#include <mutex>
#include <thread>
#include <vector>

#include "comm/gradients/gradient_exchange.hpp"
#include "support/tree_oracle.hpp"

namespace syncbn::test {

/// Buckets as a backward pass completes them: from the end, one of them empty.
inline std::vector<Slice> buckets_of(std::int64_t length, std::int64_t bucket) {
  std::vector<Slice> buckets{{length, 0}};
  for (std::int64_t end = length; end > 0; end -= bucket)
    buckets.push_back({std::max<std::int64_t>(0, end - bucket), std::min(end, bucket)});
  return buckets;
}

/// A few steps of gradients through a GradientExchange; what this rank gets in the last.
inline std::vector<float> exchange_gradients(World& world, std::int64_t length, std::int64_t bucket, bool overlap) {
  const auto buckets = buckets_of(length, bucket);
  GradientExchange exchange(world, buckets, length, overlap);
  std::vector<float> result;
  world.run([&](Worker& worker) {
    const std::span<float> gradient = exchange.gradient(worker);
    for (int step = 0; step < 4; ++step) {
      std::fill(gradient.begin(), gradient.end(), 0.0F);
      exchange.begin(worker, step);
      for (std::size_t b = 0; b < buckets.size(); ++b) {
        for (std::int64_t i = buckets[b].begin; i < buckets[b].begin + buckets[b].count; ++i)
          gradient[i] = nasty<float>(worker.index(), static_cast<std::size_t>(i)) * static_cast<float>(4 - step);
        if ((worker.index() + step) % 3 == 0) std::this_thread::yield();
        exchange.ready(worker, static_cast<int>(b));
      }
      double one = 1;  // a statistics message meanwhile
      worker.all().all_reduce(std::span<double>(&one, 1), Reduce::sum, {"bn1", step});
      exchange.wait(worker);
      if (step == 3 && worker.local_index() == 0) result.assign(exchange.result().begin(), exchange.result().end());
      worker.local_barrier();
    }
  });
  return result;
}

}  // namespace syncbn::test
