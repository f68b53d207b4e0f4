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
  double waited_seconds(const Worker& worker) const { return workers_[worker.local_index()].waited_s; }

 private:
  struct WorkerState {
    std::int64_t step = 0;
    bool open = false;        // between begin() and wait()
    std::uint64_t round = 0;  // steps begun
    int next = 0;             // of the buckets, to help with
    std::vector<char> ready;
    std::atomic<std::uint64_t> released{0};  // buckets handed in since the beginning of time
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
  /// On a device: the latest value in this worker's gradient is complete.
  int mark_of(int local, int bucket) const { return first_mark_ + bucket * static_cast<int>(workers_.size()) + local; }
  std::string name(int local) const;
  static std::size_t at(int i) { return static_cast<std::size_t>(i); }

  const std::shared_ptr<detail::RankContext> context_;
  const std::vector<Bucket> buckets_;
  const std::int64_t length_;  // of a gradient
  const bool overlap_;
  const int first_worker_;
  std::int64_t covered_ = 0;  // by the buckets
  float* sums_ = nullptr;     // the result
  std::vector<WorkerState> workers_;
  std::vector<std::atomic<int>> arrived_;  // workers of this rank, per bucket

  // In the processor's memory; else null.
  std::unique_ptr<detail::SharedGradients> host_;
  // On a device; else null.
  const std::shared_ptr<ExchangeDevice> device_;
  int first_mark_ = 0;
  std::vector<float*> on_device_;  // the workers' gradients
  detail::FoldPlan plan_;          // of this rank's workers

  // Between ranks that do not share memory; else null.
  std::unique_ptr<detail::Transport> transport_;
  std::unique_ptr<detail::Link> link_;
  std::shared_ptr<Buffer> received_;         // the result, if it is the processor's
  std::vector<int> rest_;                    // of the local tree: what the other ranks need
  std::atomic<std::uint64_t> completed_{0};  // buckets, since the beginning of time; counted on a device as well
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<bool> handed_over_;
  bool stop_ = false;
  std::thread communicator_;
};

}  // namespace syncbn
