#include "nn/arena.hpp"

#include <gtest/gtest.h>

#include "syncbn/core/random.hpp"

namespace syncbn {
namespace {

TEST(Arena, OverlappingLifetimesNeverShareMemory) {
  Random random(1, Purpose::test);
  std::vector<Lifetime> blocks;
  std::int64_t sum = 0;
  for (int i = 0; i < 200; ++i) {
    const int first = static_cast<int>(random.below(50));
    blocks.push_back(
        {static_cast<std::int64_t>(random.below(1000)) + 1, first, first + static_cast<int>(random.below(5))});
    sum += blocks.back().bytes;
  }
  const ArenaPlan plan = plan_arena(blocks);
  EXPECT_LT(plan.bytes, sum / 2);
  for (std::size_t a = 0; a < blocks.size(); ++a) {
    EXPECT_EQ(plan.offsets[a] % 64, 0);
    EXPECT_LE(plan.offsets[a] + blocks[a].bytes, plan.bytes);
    for (std::size_t b = 0; b < a; ++b) {
      if (blocks[a].last < blocks[b].first || blocks[b].last < blocks[a].first) continue;
      EXPECT_TRUE(plan.offsets[a] + blocks[a].bytes <= plan.offsets[b] ||
                  plan.offsets[b] + blocks[b].bytes <= plan.offsets[a])
          << a << " and " << b;
    }
  }
}

}  // namespace
}  // namespace syncbn
