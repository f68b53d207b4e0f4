#pragma once

#include <cstdint>
#include <exception>
#include <memory>

#include "comm/exchange_device.hpp"
#include "syncbn/comm/communicator.hpp"
#include "syncbn/comm/world.hpp"

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

/// The sums of all groups of workers directly between and on their devices, in the order of the tree over a group's
/// workers. One object per rank. Members meet on the processors, without waiting for a device, so that whoever is
/// missing or on another path is noticed; what they bring is queued for the devices alone. Always ordered, also in a
/// world of Reduction::native.
class DeviceSums {
 public:
  /// Groups as Worker::group() makes them, or for 0 Worker::node_group(); at most `max_count` values at a time. Null
  /// where a group has workers of several ranks, and their devices cannot reach each other. Collective over ranks;
  /// called outside World::run.
  static std::unique_ptr<DeviceSums> make(World& world, int workers_per_group, std::shared_ptr<ExchangeDevice> device,
                                          std::int64_t max_count);
  ~DeviceSums();

  /// The place of a worker in its group, whose communicator is given; this object must outlive it.
  std::unique_ptr<GroupSums> join(const Worker& worker, const Communicator& group);
  /// Whether sums go between the devices of several ranks. They must not be under way at the same time as other
  /// exchanges of devices: kernels that wait for other ranks can block each other, unless all ranks have started them
  /// in one order.
  bool between_ranks() const;
  /// By a worker that has failed, before it waits for its device: records the failure, then frees devices that wait for
  /// ranks which will not come. Of no other use afterwards.
  void give_up(const std::exception_ptr& failure) noexcept;

 private:
  struct Impl;
  explicit DeviceSums(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace syncbn
