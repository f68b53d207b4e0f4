#pragma once

#include <cstdint>
#include <vector>

namespace syncbn {

/// The size of a memory block and the times `first` to `last`, inclusive, during which it is needed.
struct Lifetime {
  std::int64_t bytes = 0;
  int first = 0;
  int last = 0;
};

struct ArenaPlan {
  std::vector<std::int64_t> offsets;  ///< one per block, multiples of 64
  std::int64_t bytes = 0;
};

/// Places blocks in one arena so that blocks whose lifetimes overlap never share memory (greedy, largest first, lowest
/// fit).
ArenaPlan plan_arena(const std::vector<Lifetime>& blocks);

}  // namespace syncbn
