#pragma once

#include <memory>
#include <string>

#include "comm/rank_context.hpp"
#include "syncbn/comm/exchange_device.hpp"

namespace syncbn::detail {

/// A way between the devices of all ranks, or what is in it.
struct DeviceRoute {
  std::unique_ptr<DevicePeers> peers;
  std::string obstacle;
};

/// All ranks decide alike. Every two devices have exchanged something when it returns. Collective over ranks; called
/// outside World::run.
DeviceRoute connect_devices(RankContext& context, ExchangeDevice& device);

/// Waits until what was asked for last has been queued. Throws Error when another rank is lost, or this one has failed.
void wait_until_queued(DevicePeers& peers, RankContext& context);

}  // namespace syncbn::detail
