#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "comm/exchange_device.hpp"
#include "syncbn/comm/world.hpp"

namespace syncbn {

/// Sums the workers' gradients, bucket by bucket, while their backward passes still run. One object per rank.
///
/// Each worker has a flat gradient of the same length; a bucket is a range of it. When a worker has finished a bucket
/// it says ready(). Once all have, it is summed along the fixed worker tree. Where all workers are on one machine
/// (whose ranks can share memory, and reduction is not native), they have each other's gradients within reach, and sum
/// them where they lie, each a part, in ready() and in wait(). Else what a rank's workers have summed is exchanged with
/// the other ranks apart from the messages of the normalization layers, by a thread of this object on an MPI
/// communicator of its own. The sum is the same to the bit either way, and with overlap on or off.
class GradientExchange {
 public:
  struct Bucket {
    std::int64_t offset = 0;  ///< first element in the flat gradient
    std::int64_t count = 0;
  };

  /// `buckets` in the order in which backward completes them. `length`: values in each worker's flat gradient.
  /// `device`: where the gradients and the result lie, null for the processor's memory. Collective over ranks; called
  /// outside World::run.
  GradientExchange(World& world, std::vector<Bucket> buckets, std::int64_t length, bool overlap,
                   std::shared_ptr<ExchangeDevice> device = nullptr);
  ~GradientExchange();
  GradientExchange(const GradientExchange&) = delete;
  GradientExchange& operator=(const GradientExchange&) = delete;

  /// Of a worker of this rank: [length], zeroed at first.
  std::span<float> gradient(const Worker& worker);
  /// Each worker, once per step before its first ready(). Its gradient is used as scratch until wait() returns.
  void begin(const Worker& worker, std::int64_t step);
  /// The worker will not write this bucket again in this step. Every bucket exactly once per step.
  void ready(const Worker& worker, int bucket);
  /// Blocks until all buckets are reduced; then result() holds the sums over all workers (for what is queued behind
  /// the exchange, on a device). All workers.
  void wait(const Worker& worker);
  /// The sum over all workers of what the buckets cover; valid from wait() until a worker's next begin(). To be read
  /// only: ranks of one machine may share it.
  std::span<const float> result() const;
  /// Whether the ranks should have shared the gradients' memory, but could not: then they send them. The same on all.
  bool lacks_room() const;
  /// Seconds this worker has spent in wait().
  double waited_seconds(const Worker& worker) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace syncbn
