#include "study/running/placement.hpp"

#include <algorithm>

namespace syncbn {

std::optional<Placement> Cores::take(int wanted, int workers) {
  // Whole ranks, when one is not enough.
  Placement placement;
  const auto whole = static_cast<std::size_t>(std::min(wanted / threads_, (workers + threads_ - 1) / threads_));
  for (std::size_t rank = 0; rank < free_.size() && whole > 1 && placement.ranks.size() < whole; ++rank) {
    if (free_[rank] == threads_) placement.ranks.push_back(static_cast<int>(rank));
  }
  placement.threads = threads_;
  if (placement.ranks.size() < 2) {
    // The rank on which it fits best.
    const auto most = std::max_element(free_.begin(), free_.end());
    if (*most == 0) return std::nullopt;
    placement.ranks = {static_cast<int>(most - free_.begin())};
    placement.threads = std::clamp(wanted, 1, std::min(workers, *most));
  }
  for (const int rank : placement.ranks) free_[rank] -= placement.threads;
  return placement;
}

void Cores::give_back(const Placement& placement) {
  for (const int rank : placement.ranks) free_[rank] += placement.threads;
}

int fair_share(int cores, int open) {
  return std::max(1, cores / std::max(1, open));
}

}  // namespace syncbn
