#include "comm/gradients/shared_gradients.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <new>

#include "comm/order/combine.hpp"
#include "comm/order/shards.hpp"
#include "comm/order/tree.hpp"

namespace syncbn::detail {

namespace {

/// Memory touched when a piece is folded; it should stay in the second-level cache.
constexpr std::int64_t kFoldBytes = 256 * 1024;
constexpr std::int64_t kLeastPiece = 1024, kMostPiece = 8192;  // elements

bool on_one_machine(const Topology& topology) {
  return topology.ranks_here().size() == topology.ranks;
}

void add(float* into, const float* left, const float* right, std::int64_t count) {
  combine(reinterpret_cast<std::byte*>(into), reinterpret_cast<const std::byte*>(left),
          reinterpret_cast<const std::byte*>(right), count, Element::f32, Reduce::sum);
}

}  // namespace

SharedGradients::SharedGradients(const World& world, const RankContext& context, std::span<const Slice> buckets,
                                 std::int64_t length)
    : topology_(context.topology()),
      memory_(world, context.reduction() == Reduction::ordered && on_one_machine(topology_)),
      progress_(buckets.size()),
      scratch_(at(topology_.local().size())) {
  const auto floats = static_cast<std::size_t>(round_up(length, kShardGrain));
  // Reserved for the largest possible number of workers, so each worker's gradient lies in pages of its own rank.
  const int planned = memory_.workers();
  auto* first = reinterpret_cast<float*>(memory_.take(floats * at(planned) * sizeof(float)));
  result_ = reinterpret_cast<float*>(memory_.take(floats * sizeof(float)));
  slots_ = reinterpret_cast<Slot*>(memory_.take(at(topology_.ranks) * buckets.size() * sizeof(Slot)));
  memory_.commit();
  for (int w = 0; w < memory_.workers(); ++w) gradients_.push_back(first + floats * at(w));
  first_here_ = topology_.local().first - memory_.first_worker();
  complete_ = memory_.workers() == topology_.workers;
  if (!complete_) {
    received_ = std::make_shared<Buffer>(floats * sizeof(float));
    result_ = received_->as<float>();
  }
  ranks_ = memory_.ranks();
  plan_additions();
  most_in_piece_ = std::clamp<std::int64_t>(
      kFoldBytes / static_cast<std::int64_t>(sizeof(float)) / (memory_.workers() + 1) / kShardGrain * kShardGrain,
      kLeastPiece, kMostPiece);
  for (std::size_t b = 0; b < buckets.size(); ++b) {
    Slice& shard = progress_[b].shard;
    shard = shard_of(buckets[b].count, topology_.rank - ranks_.first, ranks_.size());
    shard.begin += buckets[b].begin;
    progress_[b].pieces =
        std::max<std::uint64_t>(1, static_cast<std::uint64_t>(round_up(shard.count, most_in_piece_) / most_in_piece_));
    new (&slot(topology_.rank, static_cast<int>(b))) Slot;
  }
}

void SharedGradients::plan_additions() {
  const int first = memory_.first_worker();
  const FoldPlan plan = fold_leaves(topology_.all(), {first, first + memory_.workers()});
  std::vector<std::optional<int>> room_of(gradients_.size());
  std::vector<int> free;
  for (const Fold& fold : plan.folds) {
    const std::optional<int> left = room_of[fold.into], right = room_of[fold.from];
    if (!left && !right && free.empty()) free.push_back(rooms_++);
    const int room = left ? *left : right ? *right : free.back();
    if (!left && !right) free.pop_back();
    if (left && right) free.push_back(*right);
    additions_.push_back({fold.into, fold.from, left, right, room});
    room_of[fold.into] = room;
  }
  rest_ = plan.rest;
}

void SharedGradients::bring(int bucket, std::uint64_t round, const Header& header, int /*by*/) {
  Slot& mine = slot(topology_.rank, bucket);
  mine.header = header;
  mine.brought.store(round, std::memory_order_release);
}

bool SharedGradients::brought(int bucket, std::uint64_t round) const {
  for (int rank = ranks_.first; rank < ranks_.last; ++rank)
    if (slot(rank, bucket).brought.load(std::memory_order_acquire) < round) return false;
  return true;
}

bool SharedGradients::folded(int bucket, std::uint64_t round) const {
  for (int rank = ranks_.first; rank < ranks_.last; ++rank)
    if (slot(rank, bucket).folded.load(std::memory_order_acquire) < round) return false;
  return true;
}

void SharedGradients::compare_headers(int bucket) const {
  for (int rank = ranks_.first; rank < ranks_.last; ++rank)
    require_equal(slot(rank, bucket).header, rank, slot(topology_.rank, bucket).header, topology_.rank,
                  [this](int one) { return topology_.describe_rank(one); });
}

bool SharedGradients::fold(int bucket, std::uint64_t round, int by) {
  Progress& mine = progress_[bucket];
  const std::uint64_t first = (round - 1) * mine.pieces, end = round * mine.pieces;
  std::uint64_t piece = mine.taken.load(std::memory_order_relaxed);
  while (piece < end) {
    if (!mine.taken.compare_exchange_weak(piece, piece + 1, std::memory_order_relaxed)) continue;
    if (piece == first) compare_headers(bucket);
    const auto begin = static_cast<std::int64_t>(piece - first) * most_in_piece_;
    fold_piece({mine.shard.begin + begin, std::min(mine.shard.count - begin, most_in_piece_)}, by);
    if (mine.finished.fetch_add(1, std::memory_order_acq_rel) + 1 == end) {
      slot(topology_.rank, bucket).folded.store(round, std::memory_order_release);
      return true;
    }
    ++piece;
  }
  return false;
}

void SharedGradients::fold_piece(const Slice& piece, int by) {
  if (piece.count <= 0) return;
  const auto gradient = [&](int worker) { return gradients_[worker] + piece.begin; };
  if (!complete_) {
    for (const Addition& a : additions_) add(gradient(a.left), gradient(a.left), gradient(a.right), piece.count);
    return;
  }
  float* result = result_ + piece.begin;
  if (additions_.empty()) {
    std::copy_n(gradient(0), piece.count, result);
    return;
  }
  // Never write into other workers' gradients: the cache lines would have to return to their owner before the next
  // step.
  Buffer& rooms = scratch_[by];
  if (rooms.size() == 0) rooms = Buffer(at(rooms_) * static_cast<std::size_t>(most_in_piece_) * sizeof(float));
  const auto sum = [&](int room) { return rooms.as<float>() + room * most_in_piece_; };
  for (const Addition& a : additions_)
    add(&a == &additions_.back() ? result : sum(a.room), a.left_room ? sum(*a.left_room) : gradient(a.left),
        a.right_room ? sum(*a.right_room) : gradient(a.right), piece.count);
}

std::string SharedGradients::missing(int bucket, std::uint64_t round) const {
  const bool all_brought = brought(bucket, round);
  std::string list;
  for (int rank = ranks_.first; rank < ranks_.last; ++rank) {
    const Slot& theirs = slot(rank, bucket);
    const auto& done = all_brought ? theirs.folded : theirs.brought;
    if (done.load(std::memory_order_acquire) < round)
      list += (list.empty() ? "" : ", ") + topology_.describe_rank(rank);
  }
  return list.empty() ? "nobody" : list;
}

}  // namespace syncbn::detail
