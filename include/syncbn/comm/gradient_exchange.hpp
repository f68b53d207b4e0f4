#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "syncbn/comm/exchange_device.hpp"
#include "syncbn/comm/world.hpp"

namespace syncbn {

/// Sums the workers' gradients, bucket by bucket, while their backward passes still run. One object per rank.
///
/// Each worker owns a flat gradient of the same length; a bucket is a range of it. When a worker has finished a
/// bucket it says ready(); partials of the rank's workers are combined along the fixed worker tree by whichever worker
/// completes a pair. What is left is exchanged with the other ranks apart from the messages of the normalization
/// layers: through memory by the workers themselves, now and then, where all ranks share a machine; else by a thread of
/// this object on an MPI communicator of its own. The sum is the same to the bit with overlap on or off.
class GradientExchange {
 public:
  struct Bucket {
    std::int64_t offset = 0;  ///< first element in the flat gradient
    std::int64_t count = 0;
  };

  /// `buckets` in the order in which backward completes them. `device`: where the gradients and the result lie, null
  /// for the processor's memory. Collective over ranks; called outside World::run.
  GradientExchange(World& world, std::vector<Bucket> buckets, bool overlap,
                   std::shared_ptr<ExchangeDevice> device = nullptr);
  ~GradientExchange();
  GradientExchange(const GradientExchange&) = delete;
  GradientExchange& operator=(const GradientExchange&) = delete;

  /// Each worker, once per step before its first ready(): its flat gradient, which is used as scratch until wait()
  /// returns. Other workers read it: its memory must outlive World::run, also when the worker throws.
  void begin(const Worker& worker, std::span<float> gradient, std::int64_t step);
  /// The worker will not write this bucket again in this step. Every bucket exactly once per step.
  void ready(const Worker& worker, int bucket);
  /// Blocks until all buckets are reduced; then result() holds the sums over all workers (for what is queued behind
  /// the exchange, on a device). All workers.
  void wait(const Worker& worker);
  /// The summed gradient of this rank; valid from wait() until the next begin(). Read-only sharing between local
  /// workers is safe; so is writing disjoint parts (the optimizer does, when clipping).
  std::span<float> result() const;
  /// Seconds this worker has spent in wait().
  double waited_seconds(const Worker& worker) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace syncbn
