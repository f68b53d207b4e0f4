#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/devices/exchange_device.hpp"
#include "core/slice.hpp"
#include "syncbn/comm/world.hpp"

namespace syncbn {

namespace detail {
class Deadline;
class Gradients;
struct Header;
class RankExchange;
}  // namespace detail

/// Sums the workers' gradients, bucket by bucket, while their backward passes still run. One object per rank.
///
/// Each worker has a flat gradient of the same length; a bucket is a range of it. A worker calls ready() when it has
/// finished a bucket. Once all have, the bucket is summed along the fixed worker tree. If all workers share memory,
/// each of them sums a part of it in ready() and wait() (SharedGradients). Otherwise each rank sums its own workers'
/// gradients, in CPU memory or on their device (DeviceGradients), and a thread exchanges the sums with other ranks
/// (RankExchange). The sum has the same bits either way, and with overlap on or off.
class GradientExchange {
 public:
  /// `buckets`: in the order in which backward completes them. `length`: values in each worker's flat gradient.
  /// `device`: the device whose memory holds the gradients and the result, null for CPU memory. Collective over ranks;
  /// called outside World::run.
  GradientExchange(World& world, std::vector<Slice> buckets, std::int64_t length, bool overlap,
                   std::shared_ptr<ExchangeDevice> device = nullptr);
  ~GradientExchange();
  GradientExchange(const GradientExchange&) = delete;
  GradientExchange& operator=(const GradientExchange&) = delete;

  /// The gradient of a worker of this rank: [length], initially zero.
  std::span<float> gradient(const Worker& worker);
  /// Called by each worker once per step before its first ready(). The gradient is used as scratch until wait()
  /// returns.
  void begin(const Worker& worker, std::int64_t step);
  /// Declares that the worker will not write this bucket again in this step. Every bucket exactly once per step.
  void ready(const Worker& worker, int bucket);
  /// Blocks until all buckets are reduced; result() then holds the sums over all workers (on a device, for work queued
  /// after the exchange). Called by all workers.
  void wait(const Worker& worker);
  /// The sum over all workers of the buckets' values; valid from wait() until a worker's next begin(). Read-only: ranks
  /// of one machine may share it.
  std::span<const float> result() const;
  /// Whether the ranks send gradients because they should share memory but could not. The same on all ranks.
  bool lacks_room() const { return lacks_room_; }
  /// Seconds this worker has spent in wait().
  double waited_seconds(const Worker& worker) const { return workers_[worker.local_index()].waited_s; }

 private:
  struct WorkerState {
    std::int64_t step = 0;
    bool open = false;        // between begin() and wait()
    std::uint64_t round = 0;  // steps begun
    int next = 0;             // the next bucket to help with
    std::vector<char> ready;
    std::atomic<std::uint64_t> released{0};  // buckets handed in since the start
    double waited_s = 0;
  };

  void release(int local, int bucket);
  void require_same_step(int bucket);
  void help(int local);
  void pass_on(int bucket);
  bool is_complete(std::uint64_t round) const;
  void check_progress(const WorkerState& me, int local, const detail::Deadline& deadline);
  detail::Header header_of(int bucket) const;
  int count() const { return static_cast<int>(buckets_.size()); }
  std::string name(int local) const;
  static std::size_t at(int i) { return static_cast<std::size_t>(i); }

  const std::shared_ptr<detail::RankContext> context_;
  const std::vector<Slice> buckets_;
  const std::int64_t length_;  // of a gradient
  const bool overlap_;
  const int first_worker_;
  std::int64_t covered_ = 0;  // values covered by the buckets
  bool lacks_room_ = false;
  std::vector<WorkerState> workers_;
  std::vector<std::atomic<int>> arrived_;  // workers of this rank that are ready, per bucket
  std::unique_ptr<detail::Gradients> gradients_;
  std::unique_ptr<detail::RankExchange> exchange_;  // null if `gradients_` sums those of all workers
};

}  // namespace syncbn
