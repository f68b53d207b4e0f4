#pragma once

#include <cstdint>

#include "syncbn/comm/communicator.hpp"

namespace syncbn {

/// Sums what one worker's normalization layers send over its group, where it lies on the worker's device. One sum at a
/// time.
class GroupSums {
 public:
  struct Sum {
    const double* values;  ///< on the device, for what is queued there until the start() after the next
    double head;
  };
  virtual ~GroupSums() = default;
  /// `values`: [count] f64 on the device, as of what the worker has queued so far; `head`: one number more, which the
  /// caller has at hand. Does not wait for the device unless the sum goes by way of the processors. Collective over the
  /// group.
  virtual void start(const double* values, std::int64_t count, double head, const Tag& tag) = 0;
  /// Collective over the group.
  virtual Sum finish() = 0;
  /// Waits until no sum is missing any more that this worker's device may have to wait for. Before a wait for the
  /// device, which could not be ended when another rank is lost. Throws Error on time-out.
  virtual void settle() {}
};

}  // namespace syncbn
