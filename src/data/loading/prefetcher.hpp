#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <limits>
#include <mutex>
#include <thread>
#include <vector>

#include "data/loading/loader.hpp"

namespace syncbn {

/// Background threads that fill batches ahead of several consumers, each with a ring of its own. They begin batches
/// round by round (a round: one batch per consumer), consumer by consumer, at most `depth` rounds ahead of the slowest
/// consumer.
class Prefetcher {
 public:
  /// Fills the batch of `consumer` in `round` (0, 1, ...). Called by all the threads. `batch` still holds what an
  /// earlier round left in it, so that its memory can be used again.
  using Fill = std::function<void(std::int64_t round, int consumer, Batch& batch)>;

  Prefetcher(int consumers, int depth, int threads, Fill fill);
  /// Stops after the batches being filled, if any.
  ~Prefetcher();
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

  /// The next batch of `consumer`, valid until its next call. Waits for it; rethrows what `fill` threw, once the
  /// batches before that are used up. One call per consumer at a time.
  const Batch& next(int consumer);

 private:
  struct Slot {
    Batch batch;
    std::int64_t round = -1;  ///< that it has been filled for
  };
  struct Ring {
    std::vector<Slot> slots;
    std::int64_t taken = 0;  ///< rounds; the latest one taken is still in use
  };
  void run(const std::stop_token& stop);
  /// The number of a batch in the order in which they are begun.
  std::int64_t ticket(std::int64_t round, std::size_t consumer) const {
    return round * static_cast<std::int64_t>(rings_.size()) + static_cast<std::int64_t>(consumer);
  }
  static Slot& slot(Ring& ring, std::int64_t round) {
    return ring.slots[static_cast<std::size_t>(round) % ring.slots.size()];
  }

  Fill fill_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::vector<Ring> rings_;
  std::int64_t next_ticket_ = 0;
  std::int64_t failed_ticket_ = std::numeric_limits<std::int64_t>::max();  ///< the first that error_ is about
  std::exception_ptr error_;
  std::vector<std::jthread> threads_;  // last: start when all else is there, end before anything goes
};

}  // namespace syncbn
