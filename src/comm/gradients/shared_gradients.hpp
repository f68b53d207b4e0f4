#pragma once

#include <atomic>
#include <optional>
#include <string>
#include <vector>

#include "comm/gradients/gradient_exchange.hpp"
#include "comm/gradients/machine_memory.hpp"
#include "comm/links/header.hpp"
#include "comm/order/shards.hpp"
#include "comm/order/tree.hpp"
#include "comm/rank_context.hpp"

namespace syncbn::detail {

/// Gradients of the workers that share memory, and their tree-ordered sum, computed without copying the gradients
/// first. These are all workers if they are on one machine and its ranks share memory; else the workers of this rank.
///
/// When every rank has brought a bucket, each rank folds its shard of it, in short pieces that stay in cache; each
/// piece is folded by whichever worker of the rank has time. Rounds count from 1, one per step, and are the same on all
/// ranks.
class SharedGradients {
 public:
  /// `length` values per worker; `buckets` are ranges of them. Collective over ranks.
  SharedGradients(const World& world, const RankContext& context, std::span<const GradientExchange::Bucket> buckets,
                  std::int64_t length);

  /// The gradient of a worker that shares this memory.
  float* gradient(int worker) { return gradients_[worker - memory_.first_worker()]; }
  /// Whether all workers share this memory. If so, result() is the sum; otherwise the gradients of the workers in
  /// rest() are replaced by the partial sums of the tree nodes that they begin.
  bool complete() const { return complete_; }
  float* result() { return result_; }
  const std::vector<int>& rest() const { return rest_; }

  bool lacks_room() const { return memory_.lacks_room(); }

  /// Announces that all workers of this rank have written the bucket. `header`: this rank's description of it, to be
  /// compared.
  void bring(int bucket, std::uint64_t round, const Header& header);
  /// Whether all ranks have announced the bucket.
  bool brought(int bucket, std::uint64_t round) const;
  /// Folds pieces of a bucket that all have brought, as long as there are any left. Returns true for the one call per
  /// rank that completes its shard. `by`: the calling worker's index on this rank. Throws Error if the ranks' headers
  /// differ.
  bool fold(int bucket, std::uint64_t round, int by);
  /// Whether all ranks have folded their shards of the bucket.
  bool folded(int bucket, std::uint64_t round) const;
  /// The ranks that have not brought or folded the bucket.
  std::string missing(int bucket, std::uint64_t round) const;

 private:
  /// What one rank tells the others about a bucket. Only this rank writes it.
  struct Slot {
    alignas(64) std::atomic<std::uint64_t> brought{0};  // number of the last round
    Header header;
    alignas(64) std::atomic<std::uint64_t> folded{0};
  };
  /// Progress of this rank's shard of a bucket.
  struct Progress {
    Slice shard;                             // a range of the flat gradient
    std::uint64_t pieces = 1;                // at least 1, which may be empty
    std::atomic<std::uint64_t> taken{0};     // since the start, over all rounds
    std::atomic<std::uint64_t> finished{0};  // likewise
  };

  /// One addition of the tree: the operands are gradients of workers or, if a room is set, sums held in rooms; the sum
  /// goes to a room (a scratch row).
  struct Addition {
    int left = 0, right = 0;
    std::optional<int> left_room, right_room;
    int room = 0;
  };

  static std::size_t at(int i) { return static_cast<std::size_t>(i); }
  Slot& slot(int rank, int bucket) const { return slots_[at(rank - ranks_.first) * progress_.size() + at(bucket)]; }
  void plan_additions();
  void compare_headers(int bucket) const;
  void fold_piece(const Slice& piece, int by);

  const Topology& topology_;
  MachineMemory memory_;
  IndexRange ranks_;
  bool complete_ = false;
  std::vector<float*> gradients_;  // of the workers that share memory
  float* result_ = nullptr;
  Slot* slots_ = nullptr;  // [ranks][buckets]
  std::vector<Addition> additions_;
  int rooms_ = 0;  // rooms for sums that are needed at the same time
  std::vector<int> rest_;
  std::int64_t most_in_piece_ = 0;
  std::vector<Progress> progress_;  // per bucket
  std::vector<Buffer> scratch_;     // per worker of this rank
};

}  // namespace syncbn::detail
