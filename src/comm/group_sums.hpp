#pragma once

#include <cstdint>

#include "syncbn/comm/communicator.hpp"

namespace syncbn {

/// Sums the messages of one worker's normalization layers over its group, in the memory of the worker's device. One sum
/// at a time.
class GroupSums {
 public:
  struct Sum {
    const double* values;  ///< on the device; valid for work queued there until the start() after the next
    double head;
  };
  virtual ~GroupSums() = default;
  /// `values`: [count] f64 on the device, as written by the work queued so far. `head`: one more number to sum, given
  /// by value. Does not wait for the device unless the sum is computed on the CPU. Collective over the group.
  virtual void start(const double* values, std::int64_t count, double head, const Tag& tag) = 0;
  /// Returns the group's sum. Collective over the group.
  virtual Sum finish() = 0;
  /// Waits until the device can no longer be blocked by a sum that other ranks have not joined. Called before waiting
  /// for the device, since that wait could not be ended if another rank were lost. Throws Error on time-out.
  virtual void settle() {}
};

}  // namespace syncbn
