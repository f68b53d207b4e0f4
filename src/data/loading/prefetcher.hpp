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

/// Background threads that fill batches ahead of several consumers, each with its own ring of slots. They begin batches
/// round by round (one batch per consumer in a round), consumer by consumer, at most `depth` rounds ahead of the
/// slowest consumer.
class Prefetcher {
 public:
  /// Fills the batch of `consumer` in `round` (0, 1, ...). Called by all the threads. `batch` still has the contents of
  /// an earlier round, so that its memory can be reused.
  using Fill = std::function<void(std::int64_t round, int consumer, Batch& batch)>;

  Prefetcher(int consumers, int depth, int threads, Fill fill);
  /// Stops after the batches that are being filled, if any.
  ~Prefetcher();
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

  /// Returns the next batch of `consumer`, valid until its next call. Waits for it; rethrows an exception of `fill`
  /// once the batches before it have been used. One call per consumer at a time.
  const Batch& next(int consumer);

 private:
  struct Slot {
    Batch batch;
    std::int64_t round = -1;  ///< the round that it has been filled for
  };
  struct Ring {
    std::vector<Slot> slots;
    std::int64_t taken = 0;  ///< rounds taken; the latest one is still in use
  };
  void run(const std::stop_token& stop);
  /// Returns the position of a batch in the order in which they are begun.
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
  std::int64_t failed_ticket_ = std::numeric_limits<std::int64_t>::max();  ///< the first batch that error_ concerns
  std::exception_ptr error_;
  std::vector<std::jthread> threads_;  // last member: threads start after, and end before, all others
};

}  // namespace syncbn
