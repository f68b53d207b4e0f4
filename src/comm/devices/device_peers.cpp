#include "comm/devices/device_peers.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "comm/devices/nccl_module.hpp"

namespace syncbn::detail {

namespace {

/// Returns why the devices cannot be connected directly, empty if they can; the same text on all ranks.
std::string find_obstacle(RankContext& context, ExchangeDevice& device, const std::string& problem) {
  const Topology& topology = context.topology();
  const auto own = static_cast<std::size_t>(topology.rank);
  const std::string mine = problem.empty() ? fmt::format("{} {}", topology.nodes[own], device.device_name()) : "";
  const std::vector<std::string> devices = context.control().all_gather(mine, "devices");
  const std::vector<std::string> problems = context.control().all_gather(problem, "NCCL");
  for (std::size_t rank = 0; rank < devices.size(); ++rank) {
    if (devices[rank].empty())
      return fmt::format("{}: {}", topology.describe_rank(static_cast<int>(rank)), problems[rank]);
    const auto same =
        static_cast<std::size_t>(std::find(devices.begin(), devices.end(), devices[rank]) - devices.begin());
    if (same < rank) return fmt::format("ranks {} and {} share a device, which NCCL does not allow", same, rank);
  }
  return "";
}

}  // namespace

DeviceRoute connect_devices(RankContext& context, ExchangeDevice& device) {
  const Topology& topology = context.topology();
  const NcclModule nccl = open_nccl_module();
  const std::string obstacle = find_obstacle(context, device, nccl.problem);
  if (!obstacle.empty()) return {nullptr, obstacle};
  std::string id;
  if (topology.rank == 0) nccl.make_id(&id);
  id = context.control().all_gather(id, "NCCL's id").front();
  std::unique_ptr<DevicePeers> peers(nccl.connect(id, topology.rank, topology.ranks, device.device_index(),
                                                  device.native_queue(), kSetUpPatience * context.timeout_s()));
  // NCCL connects two devices at their first exchange, and then allocates memory, which may wait for running kernels.
  // Later on, some of these may in turn wait for another rank.
  auto* room = static_cast<std::byte*>(device.allocate(2 * sizeof(float) * static_cast<std::size_t>(topology.ranks)));
  std::vector<DevicePeers::Transfer> sends, receives;
  for (int rank = 0; rank < topology.ranks; ++rank) {
    if (rank == topology.rank) continue;
    sends.push_back({rank, room + 2 * rank, 1});
    receives.push_back({rank, room + 2 * rank + 1, 1});
  }
  peers->exchange(sends, receives);
  wait_until_queued(*peers, context, kSetUpPatience);
  if (context.reduction() == Reduction::native) {
    peers->all_reduce(reinterpret_cast<float*>(room), 1);
    wait_until_queued(*peers, context, kSetUpPatience);
  }
  const int done = device.make_marks(1);
  device.set(done, ExchangeDevice::kExchange);
  RemoteWait wait(context, kSetUpPatience);
  for (; !device.passed(done); std::this_thread::sleep_for(kRemoteNap))
    check_devices(wait, topology, "the first exchange");
  return {std::move(peers), ""};
}

void check_devices(RemoteWait& wait, const Topology& topology, const std::string& place) {
  wait.check([&] { return topology.describe_rank(topology.rank) + " at " + place; },
             [] { return "the devices of other ranks (NCCL_DEBUG=INFO shows more)"; });
}

void wait_until_queued(DevicePeers& peers, RankContext& context, double patience) {
  RemoteWait wait(context, patience);
  for (; !peers.queued(); relax()) check_devices(wait, context.topology(), "the start of an exchange");
}

}  // namespace syncbn::detail
