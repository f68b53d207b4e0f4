#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/gradients/gradients.hpp"
#include "comm/gradients/machine_memory.hpp"
#include "comm/rank_context.hpp"
#include "core/slice.hpp"

namespace syncbn::detail {

/// Gradients in CPU memory. All workers share it if they are on one machine, its ranks can share memory and reduction
/// is ordered; else the workers of this rank do. The gradients are summed without copying them first.
///
/// When every rank has brought a bucket, each rank folds its shard of it, in short pieces that stay in cache; each
/// piece is folded by whichever worker of the rank has time.
class SharedGradients final : public Gradients {
 public:
  /// `length` values per worker; `buckets` are ranges of them. Collective over ranks.
  SharedGradients(const World& world, const RankContext& context, std::span<const Slice> buckets, std::int64_t length);

  float* gradient(int local_index) override { return gradients_[at(first_here_ + local_index)]; }
  Target result() override { return {received_, reinterpret_cast<std::byte*>(result_)}; }
  bool complete() const override { return complete_; }
  const std::vector<int>& rest() const override { return rest_; }
  /// Whether the ranks of some machine should share memory but could not. The same on all ranks.
  bool lacks_room() const { return memory_.lacks_room(); }

  void bring(int bucket, std::uint64_t round, const Header& header, int by) override;
  bool brought(int bucket, std::uint64_t round) const override;
  bool fold(int bucket, std::uint64_t round, int by) override;
  bool folded(int bucket, std::uint64_t round) const override;
  std::string missing(int bucket, std::uint64_t round) const override;

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
  int first_here_ = 0;             // the first of this rank among them
  float* result_ = nullptr;
  std::shared_ptr<Buffer> received_;  // holds the result if other ranks send it
  Slot* slots_ = nullptr;             // [ranks][buckets]
  std::vector<Addition> additions_;
  int rooms_ = 0;  // rooms for sums that are needed at the same time
  std::vector<int> rest_;
  std::int64_t most_in_piece_ = 0;
  std::vector<Progress> progress_;  // per bucket
  std::vector<Buffer> scratch_;     // per worker of this rank
};

}  // namespace syncbn::detail
