#include "comm/shared_link.hpp"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "comm/combine.hpp"

namespace syncbn::detail {

namespace {

constexpr std::size_t kPieceBytes = 64 * 1024;  // with its neighbours' pieces it stays in the second-level cache
/// Up to here latency counts, and everybody folds everything.
constexpr std::size_t kWholeUpToBytes = 4 * 1024;
/// Shards begin at multiples of this many elements, so that no two ranks write to the same cache line.
constexpr std::int64_t kShardGrain = 16;
constexpr std::size_t kLine = 64;

}  // namespace

/// What each rank writes and the others read.
struct SharedLink::Segment {
  alignas(kLine) std::atomic<std::uint64_t> posted{0};  // pieces that this rank has posted
  alignas(kLine) std::atomic<std::uint64_t> folded{0};  // number of the last piece of which it has folded its shard
  struct alignas(kLine) Buffer {
    Header header;
    alignas(kLine) std::array<std::byte, kPieceBytes> values;
  };
  std::array<Buffer, 2> buffers;
};

std::size_t SharedLink::segment_bytes() {
  return sizeof(Segment);
}

SharedLink::SharedLink(SharedMemory memory, const Layout& layout, const WorkerRange& members)
    : memory_(std::move(memory)), layout_(layout) {
  std::vector<Block> all;
  for (int rank = 0; rank < layout.ranks; ++rank) {
    const WorkerRange range = intersect(layout.of_rank(rank), members);
    if (range.size() == 0) continue;
    const FoldPlan plan = fold_plan(members.size(), leaves(range.first - members.first, range.last - members.first));
    Peer peer{rank, static_cast<int>(all.size()), static_cast<int>(plan.rest.size()), false, nullptr};
    std::byte* segment = memory_.data() + peers_.size() * segment_bytes();
    if (rank == layout.rank) {
      me_ = peers_.size();
      peer.segment = new (segment) Segment;
    } else {
      peer.segment = std::launder(reinterpret_cast<Segment*>(segment));
    }
    peers_.push_back(peer);
    most_blocks_ = std::max(most_blocks_, peer.blocks);
    for (Block block : plan.rest) {
      block.item = static_cast<int>(all.size());
      all.push_back(block);
    }
  }
  plan_ = fold_plan(members.size(), all);
  operands_.resize(all.size());
}

std::byte* SharedLink::values_of(const Peer& peer) const {
  return peer.segment->buffers[pieces_ % 2].values.data();
}

void SharedLink::start(const Header& header, std::span<std::byte* const> blocks, const Target& result) {
  header_ = header;
  header_.worker = layout_.local().first;
  blocks_.assign(blocks.begin(), blocks.end());
  result_ = result;
  for (Peer& peer : peers_)
    peer.has_root = header.operation == Operation::broadcast && layout_.of_rank(peer.rank).contains(header.root);
  const auto room = kPieceBytes / static_cast<std::size_t>(most_blocks_) / size_of(header.type);
  most_elements_ = static_cast<std::int64_t>(room) / kShardGrain * kShardGrain;
  piece_ = {0, std::min(header.count, most_elements_)};
  post();
}

/// Puts the present piece where the others see it.
void SharedLink::post() {
  const std::size_t size = size_of(header_.type);
  const std::size_t bytes = static_cast<std::size_t>(piece_.count) * size;
  sharded_ = header_.operation == Operation::all_reduce && bytes > kWholeUpToBytes;
  ++pieces_;
  Segment& mine = *peers_[me_].segment;
  if (piece_.begin == 0) mine.buffers[pieces_ % 2].header = header_;
  std::byte* values = values_of(peers_[me_]);
  for (std::size_t i = 0; i < blocks_.size(); ++i)
    if (bytes > 0) std::memcpy(values + i * bytes, blocks_[i] + static_cast<std::size_t>(piece_.begin) * size, bytes);
  mine.posted.store(pieces_, std::memory_order_release);
  stage_ = Stage::gathering;
}

bool SharedLink::all_posted() {
  return std::all_of(peers_.begin(), peers_.end(), [this](const Peer& peer) {
    return peer.segment->posted.load(std::memory_order_acquire) >= pieces_;
  });
}

bool SharedLink::all_folded() const {
  return std::all_of(peers_.begin(), peers_.end(), [this](const Peer& peer) {
    return peer.segment->folded.load(std::memory_order_acquire) >= pieces_;
  });
}

bool SharedLink::poll() {
  if (stage_ == Stage::gathering) {
    if (!all_posted()) return false;
    if (piece_.begin == 0) check_headers();
    if (!sharded_) return take_whole();
    const Range shard = shard_of(me_);
    if (shard.count > 0)
      fold(shard, values_of(peers_[me_]) + static_cast<std::size_t>(shard.begin) * size_of(header_.type));
    peers_[me_].segment->folded.store(pieces_, std::memory_order_release);
    stage_ = Stage::collecting;
  }
  if (stage_ == Stage::collecting) {
    if (!all_folded()) return false;
    collect();
    return next_piece();
  }
  return true;
}

void SharedLink::check_headers() const {
  for (const Peer& peer : peers_) {
    const Header& theirs = peer.segment->buffers[pieces_ % 2].header;
    if (first_difference(theirs, header_))
      require_equal(theirs, layout_.describe_rank(peer.rank), header_, layout_.describe_rank(layout_.rank));
  }
}

bool SharedLink::take_whole() {
  const std::size_t size = size_of(header_.type);
  std::byte* into = result_.data + static_cast<std::size_t>(piece_.begin) * size;
  if (header_.operation == Operation::all_reduce) {
    if (piece_.count > 0) fold({0, piece_.count}, into);
  } else if (header_.operation == Operation::broadcast) {
    for (const Peer& peer : peers_)
      if (peer.has_root && piece_.count > 0)
        std::memcpy(into, values_of(peer), static_cast<std::size_t>(piece_.count) * size);
  }
  return next_piece();
}

/// Folds a range of the piece over all ranks' nodes. Only `into` and scratch memory are written.
void SharedLink::fold(const Range& range, std::byte* into) {
  const std::size_t size = size_of(header_.type);
  const std::size_t stride = static_cast<std::size_t>(piece_.count) * size;
  const std::size_t bytes = static_cast<std::size_t>(range.count) * size;
  for (const Peer& peer : peers_)
    for (int i = 0; i < peer.blocks; ++i)
      operands_[static_cast<std::size_t>(peer.first_block + i)] =
          values_of(peer) + static_cast<std::size_t>(i) * stride + static_cast<std::size_t>(range.begin) * size;
  if (scratch_.size() < operands_.size() * bytes) scratch_ = Buffer(operands_.size() * bytes);
  for (const Fold& step : plan_.folds) {
    const auto node = static_cast<std::size_t>(step.into);
    std::byte* sum = &step == &plan_.folds.back() ? into : scratch_.data() + node * bytes;
    combine(sum, operands_[node], operands_[static_cast<std::size_t>(step.from)], range.count, header_.type,
            header_.reduce);
    operands_[node] = sum;
  }
}

SharedLink::Range SharedLink::shard_of(std::size_t peer) const {
  const auto begin = [this](std::size_t i) {
    const auto grains = (piece_.count + kShardGrain - 1) / kShardGrain;
    const auto first = grains * static_cast<std::int64_t>(i) / static_cast<std::int64_t>(peers_.size());
    return std::min(first * kShardGrain, piece_.count);
  };
  return {begin(peer), begin(peer + 1) - begin(peer)};
}

void SharedLink::collect() {
  const std::size_t size = size_of(header_.type);
  for (std::size_t i = 0; i < peers_.size(); ++i) {
    const Range shard = shard_of(i);
    if (shard.count == 0) continue;
    const std::size_t offset = static_cast<std::size_t>(shard.begin) * size;
    std::memcpy(result_.data + static_cast<std::size_t>(piece_.begin) * size + offset, values_of(peers_[i]) + offset,
                static_cast<std::size_t>(shard.count) * size);
  }
}

/// True when that was the last one.
bool SharedLink::next_piece() {
  piece_.begin += piece_.count;
  piece_.count = std::min(header_.count - piece_.begin, most_elements_);
  stage_ = Stage::idle;
  if (piece_.count <= 0) return true;
  post();
  return false;
}

std::string SharedLink::missing() const {
  std::string list;
  for (const Peer& peer : peers_) {
    const bool here = peer.segment->posted.load(std::memory_order_acquire) >= pieces_ &&
                      (stage_ != Stage::collecting || peer.segment->folded.load(std::memory_order_acquire) >= pieces_);
    if (!here) list += (list.empty() ? "" : ", ") + layout_.describe_rank(peer.rank);
  }
  return list.empty() ? "nobody" : list;
}

}  // namespace syncbn::detail
