#pragma once

#include <memory>
#include <vector>

#include "comm/devices/exchange_device.hpp"
#include "comm/links/transport.hpp"
#include "comm/order/shards.hpp"
#include "comm/order/tree.hpp"
#include "comm/rank_context.hpp"

namespace syncbn::detail {

/// Exchanges f32 values directly between the devices of all ranks: every rank receives all ranks' values of one shard,
/// adds them along the tree, and sends the sums to all. Blocks and results are in the devices' memory; work is queued
/// in the exchange's queue. Headers are compared through a link between the CPUs before a device starts to wait for
/// others.
class DeviceLink final : public Link {
 public:
  /// For up to `max_count` values at a time.
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
  const JointPlan joint_;  // for the nodes of all ranks
  float* inbox_;

  Stage stage_ = Stage::idle;
  Header header_;
  std::vector<float*> blocks_;
  std::vector<float*> values_;  // this rank's shard of all ranks' blocks
  float* result_ = nullptr;
};

/// Wraps `link`, which leads to the other ranks, so that it exchanges values on devices: directly between the devices
/// if all of them can, else through the CPUs, with one warning that gives the reason. Collective over ranks.
std::unique_ptr<Link> extend_to_devices(RankContext& context, std::unique_ptr<Link> link, ExchangeDevice& device,
                                        std::size_t blocks, std::int64_t max_count);

}  // namespace syncbn::detail
