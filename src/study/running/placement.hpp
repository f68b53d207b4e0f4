#pragma once

#include <optional>
#include <vector>

namespace syncbn {

/// Where a trial runs: some threads of one rank, or all threads of several.
struct Placement {
  std::vector<int> ranks;  ///< ascending
  int threads = 1;         ///< of each
  int cores() const { return static_cast<int>(ranks.size()) * threads; }
};

/// The cores of a job, as they are handed out to trials.
class Cores {
 public:
  Cores(int ranks, int threads_per_rank)
      : threads_(threads_per_rank), free_(static_cast<std::size_t>(ranks), threads_per_rank) {}

  int total() const { return threads_ * static_cast<int>(free_.size()); }
  /// Takes up to `wanted` cores for a trial of so many workers (a worker uses one), of as few ranks as possible;
  /// nothing when all are busy.
  std::optional<Placement> take(int wanted, int workers);
  void give_back(const Placement& placement);

 private:
  int threads_;
  std::vector<int> free_;  // per rank
};

/// Cores that each of `open` trials, waiting or running, may have so that none stays idle.
int fair_share(int cores, int open);

}  // namespace syncbn
