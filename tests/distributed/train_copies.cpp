#include <gmock/gmock.h>

#include <string>

#include "distributed/mpi_world.hpp"
#include "train/copies.hpp"
#include "train/stragglers.hpp"

namespace syncbn {
namespace {

using test::mpi_world;
using testing::HasSubstr;

TEST(Copies, ThatDifferAreNamed) {
  const int ranks = test::job_ranks(), odd = ranks - 1;
  const auto compare = [&](std::uint64_t of_odd) {
    World world = mpi_world(2 * ranks);
    world.run([&](Worker& w) {
      const std::uint64_t hash = world.rank() == odd ? of_odd : ~0ULL;
      require_same_copies(w, w.all(), w.local_index() == 0 ? hash : 0, 7);
    });
  };
  compare(~0ULL);
  compare(0);  // it shares the copy of another
  if (ranks == 1) return;
  try {
    compare(~0ULL - 1);
    FAIL() << "nothing was said";
  } catch (const Error& e) {
    // Of two, either may be damaged.
    const std::string one = "rank " + std::to_string(odd) + " (", other = "rank 0 (", what = e.what();
    EXPECT_THAT(what, HasSubstr("after step 7, rank "));
    EXPECT_THAT(what, HasSubstr(one));
    EXPECT_THAT(what, HasSubstr(other));
    EXPECT_TRUE(ranks == 2 || what.find(one) < what.find(other)) << what;
  }
}

TEST(Stragglers, AreNamedOnce) {
  const int ranks = test::job_ranks(), slow = ranks - 1;
  World world = mpi_world(2 * ranks, Reduction::ordered, 30, /*threads=*/2);
  world.run([&](Worker& w) {
    Stragglers stragglers(w, w.all(), /*updates=*/100);
    // The slow rank's workers wait for a tenth of the time, all others' for two thirds.
    const auto look = [&](double now_s, std::int64_t updates) {
      return stragglers.look(now_s, now_s * (world.rank() == slow ? 0.1 : 0.67), updates);
    };
    EXPECT_EQ(look(4, 103), "");  // too early to tell
    const std::string found = look(10, 108);
    if (ranks == 1)
      EXPECT_EQ(found, "");
    else
      EXPECT_THAT(found, testing::AllOf(HasSubstr("rank " + std::to_string(slow) + " ("),
                                        HasSubstr("holds up the others: in the last 8 updates they have waited 67 % of "
                                                  "their time, it 10 %")));
    EXPECT_EQ(look(20, 116), "");
  });
}

}  // namespace
}  // namespace syncbn
