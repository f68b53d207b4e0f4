#pragma once

#include <memory>
#include <vector>

#include "comm/devices/exchange_device.hpp"
#include "comm/links/transport.hpp"
#include "comm/order/shards.hpp"
#include "comm/order/tree.hpp"
#include "comm/rank_context.hpp"

namespace syncbn::detail {

/// Exchanges f32 values between the devices of all ranks directly: every rank gets everybody's values of one shard,
/// adds them along the tree, and gives the sums to everybody. Blocks and results are in the devices' memory; the work
/// is queued behind the exchange's. Headers are compared through a link of the processors before a device begins to
/// wait for others.
class DeviceLink final : public Link {
 public:
  /// At most `max_count` values at a time.
  DeviceLink(std::unique_ptr<Link> link, std::unique_ptr<DevicePeers> peers, ExchangeDevice& device,
             const Topology& topology, Reduction reduction, std::int64_t max_count);
  ~DeviceLink() override;

  void start(const Header& header, std::span<std::byte* const> blocks, const Target& result) override;
  bool poll() override;
  void give_up() noexcept override { peers_->abandon(); }
  std::string missing() const override;
  int hops() const override { return stage_ == Stage::comparing ? link_->hops() : 0; }

 private:
  enum class Stage { idle, comparing, exchanging, spreading, running };
  bool go_on();
  Slice shard(int rank) const;
  void exchange();
  void fold();
  void spread();

  std::unique_ptr<Link> link_;
  std::unique_ptr<DevicePeers> peers_;
  ExchangeDevice& device_;
  const int mark_, rank_, ranks_;
  const Reduction reduction_;
  const JointPlan joint_;  // of the nodes of all ranks
  float* inbox_;

  Stage stage_ = Stage::idle;
  Header header_;
  std::vector<float*> blocks_;
  std::vector<float*> values_;  // of all ranks' blocks, my shard
  float* result_ = nullptr;
};

/// The exchange of values on devices with other ranks, to which `link` leads: between the devices, where all of them
/// can, else by way of the processors, with one warning that says why. Collective over ranks.
std::unique_ptr<Link> extend_to_devices(RankContext& context, std::unique_ptr<Link> link, ExchangeDevice& device,
                                        std::size_t blocks, std::int64_t max_count);

}  // namespace syncbn::detail
