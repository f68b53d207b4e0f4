#include "data/loading/prefetcher.hpp"

namespace syncbn {

Prefetcher::Prefetcher(int consumers, int depth, int threads, Fill fill)
    : fill_(std::move(fill)), rings_(static_cast<std::size_t>(consumers)) {
  for (auto& ring : rings_) ring.slots.resize(static_cast<std::size_t>(depth) + 1);  // one of them is in use
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this](const std::stop_token& stop) { run(stop); });
}

Prefetcher::~Prefetcher() {
  for (auto& thread : threads_) thread.request_stop();
}

void Prefetcher::run(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  for (;;) {
    std::int64_t round = 0;
    std::size_t consumer = 0;
    const bool free = changed_.wait(lock, stop, [&] {  // another thread may have begun the batch meanwhile
      round = next_ticket_ / static_cast<std::int64_t>(rings_.size());
      consumer = static_cast<std::size_t>(next_ticket_) % rings_.size();
      const Ring& ring = rings_[consumer];
      return error_ || round - (ring.taken - 1) < static_cast<std::int64_t>(ring.slots.size());
    });
    if (!free || stop.stop_requested() || error_) return;
    ++next_ticket_;
    Slot& filling = slot(rings_[consumer], round);
    lock.unlock();
    std::exception_ptr failed;
    try {
      fill_(round, static_cast<int>(consumer), filling.batch);
    } catch (...) {
      failed = std::current_exception();
    }
    lock.lock();
    if (!failed) {
      filling.round = round;
    } else if (ticket(round, consumer) < failed_ticket_) {
      failed_ticket_ = ticket(round, consumer);
      error_ = failed;
    }
    changed_.notify_all();
  }
}

const Batch& Prefetcher::next(int consumer) {
  const auto c = static_cast<std::size_t>(consumer);
  Ring& ring = rings_[c];
  std::unique_lock lock(mutex_);
  const std::int64_t round = ring.taken;
  const Slot& wanted = slot(ring, round);
  changed_.wait(lock, [&] { return wanted.round == round || ticket(round, c) >= failed_ticket_; });
  if (ticket(round, c) >= failed_ticket_) std::rethrow_exception(error_);
  ++ring.taken;
  lock.unlock();
  changed_.notify_all();
  return wanted.batch;
}

}  // namespace syncbn
