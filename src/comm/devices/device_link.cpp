#include "comm/devices/device_link.hpp"

#include <fmt/format.h>

#include <numeric>

#include "comm/devices/device_peers.hpp"
#include "comm/devices/staged_link.hpp"
#include "core/console.hpp"

namespace syncbn::detail {

namespace {

constexpr int kQueue = ExchangeDevice::kExchange;

std::size_t bytes_of(std::int64_t count) {
  return static_cast<std::size_t>(count) * sizeof(float);
}

}  // namespace

DeviceLink::DeviceLink(std::unique_ptr<Link> link, std::unique_ptr<DevicePeers> peers, ExchangeDevice& device,
                       const Topology& topology, Reduction reduction, std::int64_t max_count)
    : link_(std::move(link)),
      peers_(std::move(peers)),
      device_(device),
      mark_(device.make_marks(1)),
      rank_(topology.rank),
      ranks_(topology.ranks),
      reduction_(reduction),
      joint_(fold_parties(topology.all(), topology.parties(topology.all()))) {
  const std::int64_t longest = round_up(max_count, ranks_ * kShardGrain) / ranks_;
  const int nodes = std::accumulate(joint_.nodes.begin(), joint_.nodes.end(), 0);
  inbox_ = static_cast<float*>(device_.allocate(bytes_of(longest * nodes)));
}

DeviceLink::~DeviceLink() {
  if (stage_ != Stage::idle) peers_->abandon();
}

Slice DeviceLink::shard(int rank) const {
  return shard_of(header_.count, rank, ranks_);
}

void DeviceLink::start(const Header& header, std::span<std::byte* const> blocks, const Target& result) {
  header_ = header;
  result_ = reinterpret_cast<float*>(result.data);
  blocks_.clear();
  for (std::byte* block : blocks) blocks_.push_back(reinterpret_cast<float*>(block));
  // Only headers are compared, by a barrier without values; the count is passed as its root.
  Header bare = header;
  bare.operation = Operation::barrier;
  bare.root = static_cast<std::int32_t>(header.count);
  bare.count = 0;
  link_->start(bare, {}, {});
  stage_ = Stage::comparing;
}

bool DeviceLink::poll() {
  try {
    return go_on();
  } catch (const DeviceError& error) {
    throw error.at("at " + describe(header_));
  }
}

bool DeviceLink::go_on() {
  switch (stage_) {
    case Stage::idle:
      return true;
    case Stage::comparing:
      if (!link_->poll()) return false;
      exchange();
      return go_on();
    case Stage::exchanging:
      if (!peers_->queued()) return false;
      fold();
      spread();
      return go_on();
    case Stage::spreading:
      if (!peers_->queued()) return false;
      device_.set(mark_, kQueue);
      stage_ = Stage::running;
      return go_on();
    case Stage::running:
      if (!peers_->queued() || !device_.passed(mark_)) return false;
      stage_ = Stage::idle;
      return true;
  }
  return false;
}

void DeviceLink::exchange() {
  if (reduction_ == Reduction::native) {
    for (std::size_t i = 1; i < blocks_.size(); ++i)
      device_.add(blocks_[0], blocks_[i], blocks_[0], header_.count, kQueue);
    device_.copy(blocks_[0], result_, bytes_of(header_.count), kQueue);
    peers_->all_reduce(result_, header_.count);
    stage_ = Stage::spreading;
    return;
  }
  const Slice mine = shard(rank_);
  std::vector<DevicePeers::Transfer> sends, receives;
  values_.clear();
  float* room = inbox_;
  for (int rank = 0; rank < ranks_; ++rank) {
    const Slice theirs = shard(rank);
    for (int i = 0; i < joint_.nodes[rank]; ++i) {
      if (rank == rank_) {
        values_.push_back(blocks_[i] + mine.begin);
        continue;
      }
      values_.push_back(room);
      if (mine.count > 0) receives.push_back({rank, room, bytes_of(mine.count)});
      room += round_up(mine.count, kShardGrain);
    }
    if (rank == rank_ || theirs.count == 0) continue;
    for (float* block : blocks_) sends.push_back({rank, block + theirs.begin, bytes_of(theirs.count)});
  }
  peers_->exchange(sends, receives);
  stage_ = Stage::exchanging;
}

void DeviceLink::fold() {
  const Slice mine = shard(rank_);
  if (mine.count == 0) return;
  for (const Fold& fold : joint_.plan.folds) {
    float* into = values_[fold.into];
    device_.add(into, values_[fold.from], into, mine.count, kQueue);
  }
  device_.copy(values_[0], result_ + mine.begin, bytes_of(mine.count), kQueue);
}

void DeviceLink::spread() {
  std::vector<DevicePeers::Transfer> sends, receives;
  const Slice mine = shard(rank_);
  for (int rank = 0; rank < ranks_; ++rank) {
    const Slice theirs = shard(rank);
    if (rank == rank_) continue;
    if (mine.count > 0) sends.push_back({rank, result_ + mine.begin, bytes_of(mine.count)});
    if (theirs.count > 0) receives.push_back({rank, result_ + theirs.begin, bytes_of(theirs.count)});
  }
  peers_->exchange(sends, receives);
  stage_ = Stage::spreading;
}

std::string DeviceLink::missing() const {
  return stage_ == Stage::comparing ? link_->missing() : "the devices of other ranks";
}

std::unique_ptr<Link> extend_to_devices(RankContext& context, std::unique_ptr<Link> link, ExchangeDevice& device,
                                        std::size_t blocks, std::int64_t max_count) {
  DeviceRoute route = connect_devices(context, device);
  if (route.peers)
    return std::make_unique<DeviceLink>(std::move(link), std::move(route.peers), device, context.topology(),
                                        context.reduction(), max_count);
  if (context.topology().rank == 0)
    write_stderr(fmt::format("syncbn: messages go by way of the processors' memory, not directly between devices: {}\n",
                             route.obstacle));
  return std::make_unique<StagedLink>(std::move(link), device, blocks, max_count);
}

}  // namespace syncbn::detail
