#pragma once

#include <memory>
#include <string>

#include "comm/devices/exchange_device.hpp"
#include "comm/rank_context.hpp"

namespace syncbn::detail {

/// A way between the devices of all ranks, or what is in it.
struct DeviceRoute {
  std::unique_ptr<DevicePeers> peers;
  std::string obstacle;
};

/// All ranks decide alike. Every two devices have exchanged something when it returns. Collective over ranks; called
/// outside World::run.
DeviceRoute connect_devices(RankContext& context, ExchangeDevice& device);

/// The wait of this rank for the devices of others.
class DeviceWait {
 public:
  /// After `patience` times the usual limit it has been too long.
  explicit DeviceWait(RankContext& context, double patience = 1)
      : context_(context), deadline_(patience * context.timeout_s()) {}
  /// To be called again and again; `what` is not there yet. Throws Error on time-out, and when another rank has
  /// announced its failure; Aborted when this rank has failed.
  void check(const std::string& what);

 private:
  RankContext& context_;
  const Deadline deadline_;
  double looked_at_s_ = 0;
};

/// Waits until what was asked for last has been queued.
void wait_until_queued(DevicePeers& peers, DeviceWait& wait);

}  // namespace syncbn::detail
