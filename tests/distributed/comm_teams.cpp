// Ranks that work on several things at once.

#include <gtest/gtest.h>
#include <mpi.h>

#include <array>
#include <thread>

#include "comm/teams.hpp"

namespace syncbn {
namespace {

Teams::Letter wait_for_letter(Teams& teams) {
  for (;;) {
    if (auto letter = teams.receive()) return *letter;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

/// The sum of what the workers of a team bring: 1 each.
double count_workers(const Teams& teams, const std::vector<int>& members, int workers, int tag) {
  WorldOptions options;
  options.workers = workers;
  World world = teams.make_world(options, members, tag);
  double sum = 0;
  world.run([&](Worker& worker) {
    std::array<double, 1> one = {1};
    worker.all().all_reduce(std::span<double>(one), Reduce::sum, {"count", 0});
    if (worker.local_index() == 0) sum = one[0];
  });
  return sum;
}

/// Ranks 0 and 1, 2 and 3, ...; the last may be alone.
std::vector<int> pair_of(const Teams& teams) {
  const int first = teams.rank() / 2 * 2;
  return first + 1 < teams.ranks() ? std::vector<int>{first, first + 1} : std::vector<int>{first};
}

TEST(DistributedTeams, LettersArriveInOrder) {
  Teams teams(static_cast<int>(MPI_Comm_c2f(MPI_COMM_WORLD)));
  const int next = (teams.rank() + 1) % teams.ranks();
  const std::string big(100'000, 'x');
  teams.send(next, "first");
  teams.send(next, big);
  teams.send(next, "");
  const int before = (teams.rank() + teams.ranks() - 1) % teams.ranks();
  for (const std::string& text : {std::string("first"), big, std::string()}) {
    const Teams::Letter letter = wait_for_letter(teams);
    EXPECT_EQ(letter.from, before);
    EXPECT_EQ(letter.text, text);
  }
  teams.flush();
  EXPECT_FALSE(teams.receive());
}

TEST(DistributedTeams, TeamsComputeSideBySide) {
  const Teams teams(static_cast<int>(MPI_Comm_c2f(MPI_COMM_WORLD)));
  for (int round = 1; round <= 20; ++round) {
    const int workers = 2 + teams.rank() / 2;  // each team has its own number
    EXPECT_EQ(count_workers(teams, pair_of(teams), workers, round), workers);
  }
}

TEST(DistributedTeams, AFailedTeamDoesNotHarmLaterOnes) {
  const Teams teams(static_cast<int>(MPI_Comm_c2f(MPI_COMM_WORLD)));
  const std::vector<int> members = pair_of(teams);
  for (int round = 1; round <= 5; ++round) {
    {
      WorldOptions options;
      options.workers = 4;
      World world = teams.make_world(options, members, round);
      EXPECT_THROW(world.run([&](Worker& worker) {
        if (worker.index() == 3) throw Error("worker 3 has had enough");
        std::array<double, 1> one = {1};
        worker.all().all_reduce(std::span<double>(one), Reduce::sum, {"count", 0});
      }),
                   Error);
    }
    EXPECT_EQ(count_workers(teams, members, 4, 100 + round), 4);
  }
}

}  // namespace
}  // namespace syncbn
