#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <vector>

namespace syncbn::detail {

/// Limits how many of a rank's workers compute at the same time. A worker holds a slot except while it waits for
/// others.
class Slots {
 public:
  Slots(int slots, int workers);

  int count() const { return count_; }
  /// Waits for a slot, at most for `limit`; whether it got one.
  bool acquire_for(int worker, std::chrono::milliseconds limit);
  void release(int worker);
  /// From now on nobody waits for a slot: after a failure everybody must get out.
  void open();
  /// Seconds since a slot last changed hands.
  double unchanged_s() const;
  /// The workers that hold a slot now.
  std::vector<int> holders() const;

 private:
  using Clock = std::chrono::steady_clock;

  const int count_;
  const bool limited_;
  int free_;
  bool open_ = false;
  std::vector<bool> holds_;
  Clock::time_point changed_at_ = Clock::now();
  mutable std::mutex mutex_;
  std::condition_variable changed_;
};

}  // namespace syncbn::detail
