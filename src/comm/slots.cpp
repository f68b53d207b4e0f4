#include "comm/slots.hpp"

namespace syncbn::detail {

void Slots::acquire() {
  if (!limited_) return;
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return free_ > 0 || open_; });
  --free_;
}

void Slots::release() {
  if (!limited_) return;
  {
    std::lock_guard lock(mutex_);
    ++free_;
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

}  // namespace syncbn::detail
