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

/// RemoteWait::check() of a rank that waits for the devices of others at `place`.
void check_devices(RemoteWait& wait, const Topology& topology, const std::string& place);

/// Waits until what was asked for last has been queued.
void wait_until_queued(DevicePeers& peers, RankContext& context, double patience = 1);

}  // namespace syncbn::detail
