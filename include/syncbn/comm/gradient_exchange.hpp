#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "syncbn/comm/world.hpp"

namespace syncbn {

/// Where gradients lie that are not in the processor's memory, and how they are added there. Every local worker has a
/// queue of its own there, in whose order its work is done; so has the exchange (kExchange). A mark is a place in a
/// queue, numbered from 0; calls for different queues may come from different threads at once.
class GradientMemory {
 public:
  static constexpr int kExchange = -1;
  virtual ~GradientMemory() = default;
  /// Before any other call, once: how many marks there will be, and the length of the gradient.
  virtual void prepare(int marks, std::int64_t length) = 0;
  /// [length] for the sums over all workers.
  virtual float* result() = 0;
  /// The mark is behind all that has been queued for `queue` so far.
  virtual void set(int mark, int queue) = 0;
  /// What is queued for `queue` from now on comes after the mark.
  virtual void follow(int mark, int queue) = 0;
  /// Whether the mark has been passed.
  virtual bool passed(int mark) = 0;
  /// to = left + right; `to` may be one of them.
  virtual void add(const float* left, const float* right, float* to, std::int64_t count, int queue) = 0;
  virtual void copy(const float* from, float* to, std::int64_t count, int queue) = 0;
  /// From and to the processor's memory, which must stay untouched until a mark set behind it has been passed.
  virtual void download(const float* from, float* to, std::int64_t count, int queue) = 0;
  virtual void upload(const float* from, float* to, std::int64_t count, int queue) = 0;
  /// Makes copies from and to this memory of the processor's fast as long as the result lives, if that is possible.
  virtual std::shared_ptr<void> pin(void* data, std::size_t bytes) = 0;

  // ---- for exchange between the devices of several ranks ----
  /// Room for `count` values, until the next call.
  virtual float* scratch(std::int64_t count) = 0;
  /// Tells the devices of a host apart.
  virtual std::string device_name() = 0;
  virtual int device_index() = 0;
  /// The exchange's queue as CUDA knows it (a cudaStream_t).
  virtual void* native_queue() = 0;
};

/// Direct exchange between the devices of all ranks, in the order of the exchange's queue.
class DevicePeers {
 public:
  struct Transfer {
    int peer;  ///< a rank
    float* values;
    std::int64_t count;
  };
  virtual ~DevicePeers() = default;
  /// All at once; between two ranks in the order given.
  virtual void exchange(std::span<const Transfer> sends, std::span<const Transfer> receives) = 0;
  /// values = sum over the ranks, in an order of the library's own.
  virtual void all_reduce(float* values, std::int64_t count) = 0;
  /// Whether what was asked for last has been queued; only then may more be. Throws Error when another rank is lost.
  virtual bool queued() = 0;
  /// Ends what is under way, so that the queue goes on; nothing may be asked for afterwards.
  virtual void abandon() noexcept = 0;
};

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

  /// `buckets` in the order in which backward completes them. `memory`: where the gradients and the result lie, null
  /// for the processor's. Collective over ranks; called outside World::run.
  GradientExchange(World& world, std::vector<Bucket> buckets, bool overlap,
                   std::shared_ptr<GradientMemory> memory = nullptr);
  ~GradientExchange();
  GradientExchange(const GradientExchange&) = delete;
  GradientExchange& operator=(const GradientExchange&) = delete;

  /// Each worker, once per step before its first ready(): its flat gradient, which is used as scratch until wait()
  /// returns. Other workers read it: its memory must outlive World::run, also when the worker throws.
  void begin(const Worker& worker, std::span<float> gradient, std::int64_t step);
  /// The worker will not write this bucket again in this step. Every bucket exactly once per step.
  void ready(const Worker& worker, int bucket);
  /// Blocks until all buckets are reduced; then result() holds the sums over all workers (for what is queued behind
  /// the exchange, if there is a `memory`). All workers.
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
