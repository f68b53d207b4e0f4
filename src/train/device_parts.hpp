#pragma once

#include <memory>

#include "comm/devices/device_sums.hpp"
#include "train/experiment.hpp"
#include "train/rank_device.hpp"

namespace syncbn {

/// What a rank's training needs on its device besides the network: all null on the CPU.
struct DeviceParts {
  /// `backend` must outlive it. Collective over ranks; called outside World::run.
  DeviceParts(World& world, const ops::Backend& backend, const Experiment& experiment);

  /// Registers a local worker's queue; see RankDevice::attach().
  void attach(int local, const ops::Device& device) const;
  /// Whether batch statistics go between the devices of several ranks; see DeviceSums::between_ranks().
  bool statistics_between_ranks() const { return sums && sums->between_ranks(); }

  std::shared_ptr<RankDevice> for_gradients;
  std::unique_ptr<ops::Mark> updated;  ///< the weights are new

  // Null as well where workers do not share statistics, or not on the device.
  std::unique_ptr<const ops::Backend> messenger;  ///< the sums of statistics are computed in its queue
  std::shared_ptr<RankDevice> for_statistics;
  std::unique_ptr<DeviceSums> sums;  ///< null as well where the devices of a group cannot reach each other
};

}  // namespace syncbn
