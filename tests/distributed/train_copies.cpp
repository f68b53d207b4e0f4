#include <gmock/gmock.h>

#include <chrono>
#include <thread>

#include "distributed/mpi_world.hpp"
#include "train/copies.hpp"
#include "train/stragglers.hpp"

namespace syncbn {
namespace {

using test::mpi_world;
using testing::HasSubstr;

TEST(Copies, ThatDifferAreNamed) {
  const int workers = test::job_ranks() + 3, odd = workers - 2;
  const auto compare = [&](std::uint64_t of_odd) {
    World world = mpi_world(workers);
    world.run([&](Worker& w) {
      // The last one shares the copy of another.
      const std::uint64_t hash = w.index() == odd ? of_odd : w.index() + 1 == workers ? 0 : ~0ULL;
      require_same_copies(w, w.all(), hash, 7);
    });
  };
  compare(~0ULL);
  try {
    compare(~0ULL - 1);
    FAIL() << "nothing was said";
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("after step 7, worker " + std::to_string(odd) + " (rank "));
    EXPECT_THAT(e.what(), HasSubstr("than worker 0 (rank 0"));
  }
}

TEST(Stragglers, AreNamedOnce) {
  const int ranks = test::job_ranks(), slow = ranks - 1;
  World world = mpi_world(2 * ranks, Reduction::ordered, 30, /*threads=*/2);
  world.run([&](Worker& w) {
    Stragglers stragglers(w, w.all(), /*interval_s=*/0.01);
    const auto begin = std::chrono::steady_clock::now();
    for (int step = 1; step <= 3; ++step) {
      // The slow rank's workers wait for a tenth of the time, all others' for two thirds.
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      const double elapsed_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      const double waited_s = elapsed_s * (world.rank() == slow ? 0.1 : 0.67);
      const std::string found = stragglers.look(waited_s, step);
      if (step > 1 || ranks == 1) {
        EXPECT_EQ(found, "");
      } else {
        EXPECT_THAT(found, HasSubstr("rank " + std::to_string(slow) + " ("));
        EXPECT_THAT(found, HasSubstr("holds up the others"));
      }
    }
  });
}

}  // namespace
}  // namespace syncbn
