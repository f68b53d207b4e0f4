#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "comm/devices/exchange_device.hpp"
#include "comm/order/tree.hpp"
#include "syncbn/comm/world.hpp"
#include "syncbn/core/tensor.hpp"

namespace syncbn {

namespace detail {
class Deadline;
struct Header;
class Link;
class SharedGradients;
class Transport;
}  // namespace detail

/// Sums the workers' gradients, bucket by bucket, while their backward passes still run. One object per rank.
///
/// Each worker has a flat gradient of the same length; a bucket is a range of it. A worker calls ready() when it has
/// finished a bucket. Once all have, the bucket is summed along the fixed worker tree. If all workers are on one
/// machine whose ranks share memory (and reduction is not native), each of them sums a part of the shared gradients in
/// ready() and wait(). Otherwise each rank sums its own workers' gradients, and a thread of this object exchanges the
/// sums with other ranks, over an MPI communicator separate from the normalization layers' messages. The sum has the
/// same bits either way, and with overlap on or off.
class GradientExchange {
 public:
  struct Bucket {
    std::int64_t offset = 0;  ///< first element in the flat gradient
    std::int64_t count = 0;
  };

  /// `buckets`: in the order in which backward completes them. `length`: values in each worker's flat gradient.
  /// `device`: the device whose memory holds the gradients and the result, null for CPU memory. Collective over ranks;
  /// called outside World::run.
  GradientExchange(World& world, std::vector<Bucket> buckets, std::int64_t length, bool overlap,
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
  bool lacks_room() const;
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

  void prepare_device();
  void release(int local, int bucket);
  void require_same_step(int bucket);
  void help(int local);
  void fold_on_device(int bucket, int by);
  void hand_over(int bucket);
  void complete();
  bool is_complete(const WorkerState& me) const;
  void check_progress(const WorkerState& me, int local, const detail::Deadline& deadline);
  void communicate();
  void start_exchange(int bucket);
  detail::Header header_of(int bucket) const;
  std::string describe_exchange(int bucket) const;
  int count() const { return static_cast<int>(buckets_.size()); }
  float* gradient_of(int local) const;
  float* gradient_of(int local, int bucket) const { return gradient_of(local) + buckets_[bucket].offset; }
  float* result_of(int bucket) const { return sums_ + buckets_[bucket].offset; }
  /// On a device: the mark that is passed when this worker's bucket is written.
  int mark_of(int local, int bucket) const { return first_mark_ + bucket * static_cast<int>(workers_.size()) + local; }
  std::string name(int local) const;
  static std::size_t at(int i) { return static_cast<std::size_t>(i); }

  const std::shared_ptr<detail::RankContext> context_;
  const std::vector<Bucket> buckets_;
  const std::int64_t length_;  // of a gradient
  const bool overlap_;
  const int first_worker_;
  std::int64_t covered_ = 0;  // values covered by the buckets
  float* sums_ = nullptr;     // the result
  std::vector<WorkerState> workers_;
  std::vector<std::atomic<int>> arrived_;  // workers of this rank that are ready, per bucket

  // The gradients in CPU memory; null if they are on a device.
  std::unique_ptr<detail::SharedGradients> host_;
  // The device that holds the gradients; null if they are in CPU memory.
  const std::shared_ptr<ExchangeDevice> device_;
  int first_mark_ = 0;
  std::vector<float*> on_device_;  // the workers' gradients
  detail::FoldPlan plan_;          // for this rank's workers

  // The exchange between ranks; null where all ranks share memory.
  std::unique_ptr<detail::Transport> transport_;
  std::unique_ptr<detail::Link> link_;
  std::shared_ptr<Buffer> received_;         // holds the result if it is in CPU memory
  std::vector<int> rest_;                    // nodes of the local tree whose sums the other ranks need
  std::atomic<std::uint64_t> completed_{0};  // buckets completed since the start; also counted on a device
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<bool> handed_over_;
  bool stop_ = false;
  std::thread communicator_;
};

}  // namespace syncbn
