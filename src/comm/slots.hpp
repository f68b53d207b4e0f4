#pragma once

#include <condition_variable>
#include <mutex>

namespace syncbn::detail {

/// Limits how many of a rank's workers compute at the same time. A worker holds a slot except while it waits for
/// others.
class Slots {
 public:
  Slots(int slots, int workers) : count_(slots), free_(slots), limited_(slots < workers) {}

  int count() const { return count_; }
  void acquire();
  void release();
  /// From now on nobody waits for a slot: after a failure everybody must get out.
  void open();

 private:
  const int count_;
  int free_;
  const bool limited_;
  bool open_ = false;
  std::mutex mutex_;
  std::condition_variable changed_;
};

/// Gives the worker's slot to others for the time it waits.
class SlotPause {
 public:
  explicit SlotPause(Slots& slots) : slots_(slots) { slots_.release(); }
  ~SlotPause() { slots_.acquire(); }
  SlotPause(const SlotPause&) = delete;
  SlotPause& operator=(const SlotPause&) = delete;

 private:
  Slots& slots_;
};

}  // namespace syncbn::detail
