#include "comm/links/shared_link.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <new>
#include <utility>

#include "comm/order/combine.hpp"

namespace syncbn::detail {

namespace {

constexpr std::size_t kPieceBytes = 128 * 1024;        // with the neighbours' shards, fits the second-level cache
constexpr std::size_t kPieceBytesBeyond = 256 * 1024;  // larger, since each piece costs a network round trip
/// Up to this size latency dominates, and every rank folds everything.
constexpr std::size_t kWholeUpToBytes = 4 * 1024;
constexpr std::size_t kLine = 64;

}  // namespace

/// The segment that one rank writes and the others read; two buffers of values follow it.
struct SharedLink::Segment {
  alignas(kLine) std::atomic<std::uint64_t> posted{0};  // number of pieces that this rank has posted
  alignas(kLine) std::atomic<std::uint64_t> folded{0};  // number of the last piece whose shard is folded
  struct alignas(kLine) PaddedHeader {
    Header header;
  };
  std::array<PaddedHeader, 2> headers;
};

std::size_t SharedLink::segment_bytes(bool goes_beyond) {
  return sizeof(Segment) + 2 * (goes_beyond ? kPieceBytesBeyond : kPieceBytes);
}

SharedLink::SharedLink(SharedMemory memory, const Topology& topology, const IndexRange& members,
                       const std::vector<Party>& parties, Beyond beyond)
    : memory_(std::move(memory)), topology_(topology), beyond_(std::move(beyond)) {
  JointPlan joint = fold_parties(members, parties);
  plan_ = std::move(joint.plan);
  for (std::size_t i = 0; i < parties.size(); ++i) {
    Peer peer{parties[i].rank, joint.nodes[i], false, nullptr};
    std::byte* segment = memory_.data() + i * segment_bytes(goes_beyond());
    if (peer.rank == topology.rank) {
      me_ = i;
      peer.segment = new (segment) Segment;
    } else {
      peer.segment = std::launder(reinterpret_cast<Segment*>(segment));
    }
    peers_.push_back(peer);
  }
  for (const Party& party : topology.parties(members))  // all members, so that all machines cut the same pieces
    most_nodes_ = std::max(most_nodes_, fold_leaves(members, party.workers).rest.size());
  piece_bytes_ = goes_beyond() ? kPieceBytesBeyond : kPieceBytes;
  if (beyond_.link) from_beyond_ = std::make_shared<Buffer>(piece_bytes_);
}

std::byte* SharedLink::values_of(const Peer& peer) const {
  return reinterpret_cast<std::byte*>(peer.segment + 1) + pieces_ % 2 * piece_bytes_;
}

void SharedLink::start(const Header& header, std::span<std::byte* const> blocks, const Target& result) {
  header_ = header;
  header_.worker = topology_.local().first;
  blocks_.assign(blocks.begin(), blocks.end());
  result_ = result;
  for (Peer& peer : peers_)
    peer.has_root = header.operation == Operation::broadcast && topology_.of_rank(peer.rank).contains(header.root);
  const auto room = piece_bytes_ / most_nodes_ / size_of(header.type);
  most_elements_ = static_cast<std::int64_t>(room) / kShardGrain * kShardGrain;
  piece_ = {0, std::min(header.count, most_elements_)};
  post();
}

/// Puts the current piece into this rank's segment, for the others to read.
void SharedLink::post() {
  const std::size_t bytes = header_.bytes_of(piece_.count);
  sharded_ = header_.operation == Operation::all_reduce && bytes > kWholeUpToBytes;
  ++pieces_;
  Segment& mine = *peers_[me_].segment;
  if (piece_.begin == 0) mine.headers[pieces_ % 2].header = header_;
  std::byte* values = values_of(peers_[me_]);
  for (std::size_t i = 0; i < blocks_.size(); ++i)
    if (bytes > 0) std::memcpy(values + i * bytes, blocks_[i] + header_.bytes_of(piece_.begin), bytes);
  mine.posted.store(pieces_, std::memory_order_release);
  enter(Stage::gathering);
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
    if (!sharded_ && !goes_beyond()) return take_whole();
    if (goes_beyond() && me_ < shards()) {
      begin_beyond();
    } else {
      if (!goes_beyond() && shard(me_).count > 0) fold(shard(me_), place_of(me_));
      announce_shard();
    }
  }
  if (stage_ == Stage::beyond) {
    if (!beyond_.link->poll()) return false;
    const std::size_t bytes = header_.bytes_of(shard(me_).count);
    if (bytes > 0) std::memcpy(place_of(me_), from_beyond_->data(), bytes);
    announce_shard();
  }
  if (stage_ == Stage::collecting) {
    if (!all_folded()) return false;
    collect();
    return next_piece();
  }
  return true;
}

void SharedLink::check_headers() const {
  for (const Peer& peer : peers_)
    require_equal(peer.segment->headers[pieces_ % 2].header, peer.rank, header_, topology_.rank,
                  [this](int rank) { return topology_.describe_rank(rank); });
}

bool SharedLink::take_whole() {
  std::byte* into = result_.data + header_.bytes_of(piece_.begin);
  if (header_.operation == Operation::all_reduce) {
    if (piece_.count > 0) fold({0, piece_.count}, into);
  } else if (header_.operation == Operation::broadcast) {
    for (const Peer& peer : peers_)
      if (peer.has_root && piece_.count > 0) std::memcpy(into, values_of(peer), header_.bytes_of(piece_.count));
  }
  return next_piece();
}

/// Folds a slice of the piece over the nodes of all ranks of this machine; the values end up in operands_. If all
/// members are on this machine, the result is the root, which goes to `root`; everything else goes to scratch memory.
void SharedLink::fold(const Slice& slice, std::byte* root) {
  const std::size_t bytes = header_.bytes_of(slice.count);
  operands_.clear();
  for (const Peer& peer : peers_)
    for (int i = 0; i < peer.nodes; ++i)
      operands_.push_back(values_of(peer) + header_.bytes_of(i * piece_.count + slice.begin));
  if (scratch_.size() < operands_.size() * bytes) scratch_ = Buffer(operands_.size() * bytes);
  for (const Fold& step : plan_.folds) {
    const auto node = static_cast<std::size_t>(step.into);
    const bool last = !goes_beyond() && &step == &plan_.folds.back();
    std::byte* sum = last ? root : scratch_.data() + node * bytes;
    combine(sum, operands_[node], operands_[step.from], slice.count, header_.type, header_.reduce);
    operands_[node] = sum;
  }
}

/// Sends this machine's partial result of this rank's shard to the other machines.
void SharedLink::begin_beyond() {
  const Slice mine = shard(me_);
  const std::size_t bytes = header_.bytes_of(mine.count);
  Header header = header_;
  header.count = mine.count;
  std::vector<std::byte*> blocks;
  if (header_.operation == Operation::broadcast) {
    for (const Peer& peer : peers_)
      if (peer.has_root) blocks.push_back(values_of(peer));
  } else if (header_.operation == Operation::all_reduce && bytes > 0) {
    fold(mine, nullptr);
    for (const int item : plan_.rest) {
      const auto node = static_cast<std::size_t>(item);
      blocks.push_back(scratch_.data() + node * bytes);
      if (operands_[node] != blocks.back()) std::memcpy(blocks.back(), operands_[node], bytes);
    }
  }
  beyond_.link->start(header, blocks, {from_beyond_, from_beyond_->data()});
  enter(Stage::beyond);
}

/// Tells the other ranks that this rank's shard, if it holds one, can be read.
void SharedLink::announce_shard() {
  peers_[me_].segment->folded.store(pieces_, std::memory_order_release);
  enter(Stage::collecting);
}

/// The number of shards into which the current piece is cut, one rank each.
std::size_t SharedLink::shards() const {
  if (!goes_beyond()) return peers_.size();
  return sharded_ ? static_cast<std::size_t>(beyond_.shards) : 1;
}

/// The shard of the current piece that a peer folds.
Slice SharedLink::shard(std::size_t peer) const {
  return shard_of(piece_.count, static_cast<int>(peer), static_cast<int>(shards()));
}

/// Where a rank's shard of the current piece can be read.
std::byte* SharedLink::place_of(std::size_t peer) const {
  return values_of(peers_[peer]) + header_.bytes_of(shard(peer).begin);
}

void SharedLink::collect() {
  for (std::size_t i = 0; i < shards(); ++i) {
    const Slice theirs = shard(i);
    std::byte* into = result_.data + header_.bytes_of(piece_.begin + theirs.begin);
    if (theirs.count > 0) std::memcpy(into, place_of(i), header_.bytes_of(theirs.count));
  }
}

/// Starts the next piece; returns true if there is none left.
bool SharedLink::next_piece() {
  piece_.begin += piece_.count;
  piece_.count = std::min(header_.count - piece_.begin, most_elements_);
  enter(Stage::idle);
  if (piece_.count <= 0) return true;
  post();
  return false;
}

std::string SharedLink::missing() const {
  if (stage_ == Stage::beyond) return beyond_.link->missing() + ", or another rank of its machine";
  std::string list;
  for (const Peer& peer : peers_) {
    const bool here = peer.segment->posted.load(std::memory_order_acquire) >= pieces_ &&
                      (stage_ != Stage::collecting || peer.segment->folded.load(std::memory_order_acquire) >= pieces_);
    if (!here) list += (list.empty() ? "" : ", ") + topology_.describe_rank(peer.rank);
  }
  if (list.empty()) return "nobody";
  return list + (hops() > 0 ? ", or ranks of other machines for which it waits" : "");
}

int SharedLink::hops() const {
  if (!goes_beyond()) return 0;
  return stage_ == Stage::collecting ? 2 : stage_ == Stage::beyond ? 1 : 0;
}

}  // namespace syncbn::detail
