#include "data/prefetcher.hpp"

#include <algorithm>

namespace syncbn {

Prefetcher::Prefetcher(int consumers, int depth, Fill fill)
    : fill_(std::move(fill)), rings_(static_cast<std::size_t>(consumers)) {
  for (auto& ring : rings_) ring.slots.resize(static_cast<std::size_t>(depth) + 1);  // one is in use
  thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
}

Prefetcher::~Prefetcher() = default;

void Prefetcher::run(const std::stop_token& stop) {
  try {
    for (std::int64_t round = 0;; ++round)
      for (std::size_t c = 0; c < rings_.size(); ++c) {
        Ring& ring = rings_[c];
        {
          std::unique_lock lock(mutex_);
          const auto size = static_cast<std::int64_t>(ring.slots.size());
          const bool free = changed_.wait(lock, stop, [&] { return round - (ring.taken - 1) < size; });
          if (!free || stop.stop_requested()) return;
        }
        fill_(round, static_cast<int>(c), slot(ring, round));
        {
          const std::lock_guard lock(mutex_);
          ring.filled = round + 1;
        }
        changed_.notify_all();
      }
  } catch (...) {
    {
      const std::lock_guard lock(mutex_);
      error_ = std::current_exception();
    }
    changed_.notify_all();
  }
}

const Batch& Prefetcher::next(int consumer) {
  Ring& ring = rings_[static_cast<std::size_t>(consumer)];
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return ring.taken < ring.filled || error_; });
  if (ring.taken == ring.filled) std::rethrow_exception(error_);
  const Batch& batch = slot(ring, ring.taken);
  ++ring.taken;
  lock.unlock();
  changed_.notify_all();
  return batch;
}

}  // namespace syncbn
