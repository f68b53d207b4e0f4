#include "comm/slots.hpp"

namespace syncbn::detail {

Slots::Slots(int slots, int workers)
    : count_(slots), limited_(slots < workers), free_(slots), holds_(static_cast<std::size_t>(workers), false) {}

bool Slots::acquire_for(int worker, std::chrono::milliseconds limit) {
  if (!limited_) return true;
  std::unique_lock lock(mutex_);
  if (!changed_.wait_for(lock, limit, [this] { return free_ > 0 || open_; })) return false;
  --free_;
  holds_[static_cast<std::size_t>(worker)] = true;
  changed_at_ = Clock::now();
  return true;
}

void Slots::release(int worker) {
  if (!limited_) return;
  {
    std::lock_guard lock(mutex_);
    ++free_;
    holds_[static_cast<std::size_t>(worker)] = false;
    changed_at_ = Clock::now();
  }
  changed_.notify_one();
}

void Slots::open() {
  {
    std::lock_guard lock(mutex_);
    open_ = true;
  }
  changed_.notify_all();
}

double Slots::unchanged_s() const {
  std::lock_guard lock(mutex_);
  return std::chrono::duration<double>(Clock::now() - changed_at_).count();
}

std::vector<int> Slots::holders() const {
  std::lock_guard lock(mutex_);
  std::vector<int> workers;
  for (std::size_t i = 0; i < holds_.size(); ++i)
    if (holds_[i]) workers.push_back(static_cast<int>(i));
  return workers;
}

}  // namespace syncbn::detail
