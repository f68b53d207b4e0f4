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

/// The gradients of workers that share memory, and their sum along the worker tree, where it is wanted, without a copy:
/// those of all workers, if they are on one machine and its ranks could share memory; else those of this rank.
///
/// When every rank has brought a bucket, each rank folds its shard of it, in short pieces that stay in cache, each by
/// whichever of its workers has time. Rounds count from 1, one for each step, the same on all ranks.
class SharedGradients {
 public:
  /// `length` values per worker; `buckets` lie within. Collective over ranks.
  SharedGradients(const World& world, const RankContext& context, std::span<const GradientExchange::Bucket> buckets,
                  std::int64_t length);

  /// Of a worker of this rank.
  float* gradient(int worker) { return gradients_[worker - memory_.first_worker()]; }
  /// Whether all workers are here. Then result() is the sum; else the sums of the tree's nodes that are rest() replace
  /// the gradients of these workers.
  bool complete() const { return complete_; }
  float* result() { return result_; }
  const std::vector<int>& rest() const { return rest_; }

  bool lacks_room() const { return memory_.lacks_room(); }

  /// All workers of this rank have written the bucket. `header`: what this rank believes it to be.
  void bring(int bucket, std::uint64_t round, const Header& header);
  /// Whether all ranks have.
  bool brought(int bucket, std::uint64_t round) const;
  /// Then: folds pieces as long as there are any to be had. True for the one call per rank with which its shard is
  /// done. `by`: a worker of this rank, counted from 0. Throws Error where ranks believe different things.
  bool fold(int bucket, std::uint64_t round, int by);
  /// Whether the bucket is done, by all ranks.
  bool folded(int bucket, std::uint64_t round) const;
  /// The ranks that have not brought or folded the bucket.
  std::string missing(int bucket, std::uint64_t round) const;

 private:
  /// What the ranks tell each other about a bucket. Only the rank itself writes it.
  struct Slot {
    alignas(64) std::atomic<std::uint64_t> brought{0};  // the last round
    Header header;
    alignas(64) std::atomic<std::uint64_t> folded{0};
  };
  /// Of this rank's shard.
  struct Progress {
    Slice shard;                             // of the flat gradient
    std::uint64_t pieces = 1;                // empty ones included
    std::atomic<std::uint64_t> taken{0};     // since the beginning of time
    std::atomic<std::uint64_t> finished{0};  // likewise
  };

  /// One of the tree: of workers' gradients or, where there is a room, of the sums in them, into a room.
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
  std::vector<float*> gradients_;  // of the workers here
  float* result_ = nullptr;
  Slot* slots_ = nullptr;  // [ranks][buckets]
  std::vector<Addition> additions_;
  int rooms_ = 0;  // for sums that are needed at once
  std::vector<int> rest_;
  std::int64_t most_in_piece_ = 0;
  std::vector<Progress> progress_;  // of the buckets
  std::vector<Buffer> scratch_;     // of this rank's workers
};

}  // namespace syncbn::detail
