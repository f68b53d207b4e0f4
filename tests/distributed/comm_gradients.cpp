#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <set>

#include "comm/gradients/machine_memory.hpp"
#include "distributed/mpi_world.hpp"
#include "support/gradients.hpp"

namespace syncbn {
namespace {

using test::mpi_world;

class DistributedGradientsOf : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Workers, DistributedGradientsOf, testing::Range(4, 10));

TEST_P(DistributedGradientsOf, HaveTheBitsOfTheTreeWithAndWithoutOverlap) {
  const int workers = GetParam();
  for (const auto& [length, bucket] : {std::pair{10007, 1000}, std::pair{600000, 262144}}) {
    const auto expected = test::tree_sum<float>(0, workers, static_cast<std::size_t>(length));
    for (const bool overlap : {true, false}) {
      World world = mpi_world(workers);
      EXPECT_EQ(test::exchange_gradients(world, length, bucket, overlap), expected);
    }
    World native = mpi_world(workers, Reduction::native);
    EXPECT_EQ(test::exchange_gradients(native, length, bucket, true).size(), expected.size());
  }
}

/// While it lives, this process cannot make longer files, nor shared memory.
class ShortFiles {
 public:
  explicit ShortFiles(rlim_t bytes) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~ShortFiles() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_{};
  void (*handler_)(int) = std::signal(SIGXFSZ, SIG_IGN);
};

TEST(DistributedGradients, HaveTheSameBitsWithoutRoomInSharedMemory) {
  constexpr std::size_t kLength = 600000;
  const int workers = test::job_ranks() + 1;
  World world = mpi_world(workers);
  const ShortFiles limit(1 << 20);
  MachineMemory memory(world);
  std::byte* all = memory.take(1 << 21);
  memory.commit();
  EXPECT_FALSE(memory.is_shared());
  // On some machine, whichever.
  EXPECT_EQ(memory.lacks_room(), std::set(world.nodes().begin(), world.nodes().end()).size() < world.nodes().size());
  EXPECT_THROW(memory.take(1), Error);
  EXPECT_THROW(memory.commit(), Error);
  EXPECT_EQ(memory.workers(), world.local_workers());
  EXPECT_EQ(std::count(all, all + (1 << 21), std::byte{0}), 1 << 21);
  EXPECT_EQ(test::exchange_gradients(world, kLength, 262144, true), test::tree_sum<float>(0, workers, kLength));
}

TEST(DistributedGradients, PlansOfAMachineMustAgree) {
  World world = mpi_world(test::job_ranks());
  MachineMemory memory(world);
  memory.take(world.rank() == 0 ? 100 : 10000);
  if (std::count(world.nodes().begin(), world.nodes().end(), 0) == 1)
    memory.commit();
  else
    EXPECT_THROW(memory.commit(), Error);
}

TEST(DistributedGradients, RanksOfAMachineHaveMemoryInCommon) {
  const int ranks = test::job_ranks();
  World world = mpi_world(ranks);
  MachineMemory memory(world);
  const auto [first, second] =
      std::pair{memory.take(1), memory.take(4 * sizeof(int) * static_cast<std::size_t>(ranks))};
  EXPECT_EQ(second - first, 64);
  memory.commit();
  EXPECT_EQ(memory.is_shared(), memory.workers() > 1);
  int* numbers = reinterpret_cast<int*>(second);
  world.run([&](Worker& worker) {
    EXPECT_EQ(numbers[worker.index()], 0);
    numbers[worker.index()] = worker.index() + 1;
    worker.all().barrier({"written", 0});
    for (int w = memory.first_worker(); w < memory.first_worker() + memory.workers(); ++w) EXPECT_EQ(numbers[w], w + 1);
  });
}

}  // namespace
}  // namespace syncbn
