#include <gtest/gtest.h>

#include "support/worlds.hpp"

namespace syncbn::test {

int job_ranks() {
  return 1;
}

World make_world(const WorldOptions& options) {
  return World::threads(options);
}

TEST(ThreadWorlds, HoldAllWorkersInOneRank) {
  const World world = make_world(5);
  EXPECT_EQ(world.ranks(), 1);
  EXPECT_EQ(world.local_workers(), 5);
}

}  // namespace syncbn::test
