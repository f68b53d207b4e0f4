#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "syncbn/data/loader.hpp"

namespace syncbn {

/// One background thread that fills batches ahead of several consumers, each with a ring of its own. The thread goes
/// round by round (a round: one batch per consumer) and runs at most `depth` rounds ahead of the slowest consumer.
class Prefetcher {
 public:
  /// Fills the batch of `consumer` in `round` (0, 1, ...). Called by the background thread, rounds in order, consumers
  /// in order. `batch` still holds what an earlier round left in it, so that its memory can be used again.
  using Fill = std::function<void(std::int64_t round, int consumer, Batch& batch)>;

  Prefetcher(int consumers, int depth, Fill fill);
  /// Stops after the batch being filled, if any.
  ~Prefetcher();
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

  /// The next batch of `consumer`, valid until its next call. Waits for it; rethrows what `fill` threw, once the
  /// batches filled before that are used up. One thread per consumer.
  const Batch& next(int consumer);

 private:
  struct Ring {
    std::vector<Batch> slots;
    std::int64_t filled = 0;  ///< rounds
    std::int64_t taken = 0;   ///< rounds; the latest one taken is still in use
  };
  void run(const std::stop_token& stop);
  Batch& slot(Ring& ring, std::int64_t round) {
    return ring.slots[static_cast<std::size_t>(round) % ring.slots.size()];
  }

  Fill fill_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::vector<Ring> rings_;
  std::exception_ptr error_;
  std::jthread thread_;  // last: starts when all else is there, ends before anything goes
};

}  // namespace syncbn
