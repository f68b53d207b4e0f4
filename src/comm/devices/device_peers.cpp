#include "comm/devices/device_peers.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "comm/devices/nccl_module.hpp"

namespace syncbn::detail {

namespace {

/// What stands between the devices, the same text on all ranks.
std::string find_obstacle(RankContext& context, ExchangeDevice& device, const std::string& problem) {
  const Topology& topology = context.topology();
  const auto own = static_cast<std::size_t>(topology.rank);
  const std::string mine = problem.empty() ? fmt::format("{} {}", topology.nodes[own], device.device_name()) : "";
  const std::vector<std::string> devices = context.all_gather(mine, "devices");
  const std::vector<std::string> problems = context.all_gather(problem, "NCCL");
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
  id = context.all_gather(id, "NCCL's id").front();
  std::unique_ptr<DevicePeers> peers(nccl.connect(id, topology.rank, topology.ranks, device.device_index(),
                                                  device.native_queue(), context.timeout_s()));
  // NCCL connects two devices at their first exchange, and allocates memory then, which may wait for kernels that are
  // running. Later there may be some among them that wait for another rank.
  auto* room = static_cast<std::byte*>(device.allocate(2 * sizeof(float) * static_cast<std::size_t>(topology.ranks)));
  std::vector<DevicePeers::Transfer> sends, receives;
  for (int rank = 0; rank < topology.ranks; ++rank) {
    if (rank == topology.rank) continue;
    sends.push_back({rank, room + 2 * rank, 1});
    receives.push_back({rank, room + 2 * rank + 1, 1});
  }
  DeviceWait wait(context, kSetUpPatience);
  peers->exchange(sends, receives);
  wait_until_queued(*peers, wait);
  if (context.reduction() == Reduction::native) {
    peers->all_reduce(reinterpret_cast<float*>(room), 1);
    wait_until_queued(*peers, wait);
  }
  const int done = device.make_marks(1);
  device.set(done, ExchangeDevice::kExchange);
  for (; !device.passed(done); std::this_thread::sleep_for(kRemoteNap))
    wait.check("the first exchange between devices");
  return {std::move(peers), ""};
}

void DeviceWait::check(const std::string& what) {
  context_.throw_if_failed();
  const double now_s = deadline_.elapsed_s();
  if (now_s < looked_at_s_ + kLookForFailuresEvery_s) return;
  looked_at_s_ = now_s;
  context_.check_remote_failure();
  if (deadline_.passed())
    context_.fail_with(
        Error(fmt::format("{} has waited {:.3g} s for {}: another device or rank is dead or stuck; "
                          "NCCL_DEBUG=INFO shows more",
                          context_.topology().describe_rank(context_.topology().rank), deadline_.limit_s(), what)));
}

void wait_until_queued(DevicePeers& peers, DeviceWait& wait) {
  for (; !peers.queued(); relax()) wait.check("NCCL to queue an operation");
}

}  // namespace syncbn::detail
