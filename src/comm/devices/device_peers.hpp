#pragma once

#include <memory>
#include <string>

#include "comm/devices/exchange_device.hpp"
#include "comm/rank_context.hpp"
#include "comm/remote_wait.hpp"

namespace syncbn::detail {

/// A direct connection between the devices of all ranks, or the reason why there is none.
struct DeviceRoute {
  std::unique_ptr<DevicePeers> peers;
  std::string obstacle;
};

/// Connects the devices of all ranks; all ranks get the same outcome. Every two devices have exchanged something when
/// it returns. Collective over ranks; called outside World::run.
DeviceRoute connect_devices(RankContext& context, ExchangeDevice& device);

/// Calls RemoteWait::check() for a rank that waits for the devices of others at `place`.
void check_devices(RemoteWait& wait, const Topology& topology, const std::string& place);

/// Waits until the latest request has been queued.
void wait_until_queued(DevicePeers& peers, RankContext& context, double patience = 1);

}  // namespace syncbn::detail
