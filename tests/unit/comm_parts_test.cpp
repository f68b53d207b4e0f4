// Parts of the communication that need no ranks: headers, layouts of ranks on machines, minima and maxima, calls of MPI
// that take long.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <limits>
#include <thread>

#include "comm/links/header.hpp"
#include "comm/links/slow_call.hpp"
#include "comm/order/combine.hpp"
#include "comm/order/topology.hpp"
#include "syncbn/comm/world.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn::detail {
namespace {

using ::testing::HasSubstr;

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

TEST(CommHeader, EveryFieldIsCompared) {
  const Header one = Header::make(Operation::all_reduce, {"bn1", 7});
  const auto difference = [&](const std::function<void(Header&)>& change) {
    Header other = one;
    change(other);
    return message_of([&] { require_equal(other, 1, one, 0, [](int who) { return std::to_string(who); }); });
  };
  EXPECT_EQ(difference([](Header& h) { h.worker = 5; }), "");  // who sends it may differ
  EXPECT_THAT(difference([](Header& h) { h.layer[2] = '2'; }), HasSubstr("the layer differs"));
  EXPECT_THAT(difference([](Header& h) { h.step = 8; }), HasSubstr("the step differs"));
  EXPECT_THAT(difference([](Header& h) { h.operation = Operation::barrier; }), HasSubstr("the operation differs"));
  EXPECT_THAT(difference([](Header& h) { h.reduce = Reduce::max; }), HasSubstr("the reduce operation differs"));
  EXPECT_THAT(difference([](Header& h) { h.type = Element::i64; }), HasSubstr("the type differs"));
  EXPECT_THAT(difference([](Header& h) { h.count = 3; }), HasSubstr("the count differs"));
  EXPECT_THAT(difference([](Header& h) { h.root = 2; }), HasSubstr("the root differs"));
  EXPECT_THAT(difference([](Header& h) { h.sequence = 4; }), HasSubstr("the sequence differs"));
  EXPECT_THAT(difference([](Header& h) { std::copy_n("a\nb\xff", 4, h.layer.begin()); }),
              HasSubstr("1 is at layer 'a?b?'"));
}

TEST(CommTopology, MachinesAreRunsOfRanks) {
  Topology topology;
  topology.workers = 8;
  topology.ranks = 4;
  topology.rank = 2;
  topology.hosts = {"a", "a", "b", "b"};
  topology.nodes = {0, 0, 2, 2};
  EXPECT_TRUE(topology.nodes_are_contiguous());
  EXPECT_EQ(topology.ranks_here().first, 2);
  EXPECT_EQ(topology.ranks_here().last, 4);
  ASSERT_EQ(topology.by_node().size(), 2u);
  EXPECT_EQ(topology.by_node()[1].first, 4);
  EXPECT_EQ(topology.by_node()[1].last, 8);
}

TEST(CommTopology, MachinesThatTakeTurnsHaveNoGroupsAndNoCommonMemory) {
  Topology topology;
  topology.workers = 8;
  topology.ranks = 4;
  topology.hosts = {"a", "b", "a", "b"};
  topology.nodes = {0, 1, 0, 1};
  EXPECT_FALSE(topology.nodes_are_contiguous());
  EXPECT_EQ(topology.ranks_here().size(), 1);
  EXPECT_THAT(message_of([&] { topology.by_node(); }), HasSubstr("start them host by host"));
}

TEST(CommCombine, MinimaAndMaximaKeepNan) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const Reduce op : {Reduce::min, Reduce::max}) {
    double left[] = {nan, 1, 1, 2}, right[] = {1, nan, 2, 1}, out[4];
    combine(reinterpret_cast<std::byte*>(out), reinterpret_cast<std::byte*>(left), reinterpret_cast<std::byte*>(right),
            4, Element::f64, op);
    EXPECT_TRUE(std::isnan(out[0]) && std::isnan(out[1]));
    EXPECT_EQ(out[2], op == Reduce::min ? 1 : 2);
    EXPECT_EQ(out[3], op == Reduce::min ? 1 : 2);
  }
}

TEST(CommSlowCall, IsNamedWhileItLasts) {
  std::array<int, 2> pipe{};
  ASSERT_EQ(::pipe(pipe.data()), 0);
  const int before = ::dup(STDERR_FILENO);
  ::dup2(pipe[1], STDERR_FILENO);
  std::array<char, 1000> line{};
  {
    const SlowCall watch("MPI_Init", "nobody is there", 0);
    EXPECT_GT(::read(pipe[0], line.data(), line.size() - 1), 0);  // waits for it
  }
  ::dup2(before, STDERR_FILENO);
  for (const int file : {before, pipe[0], pipe[1]}) ::close(file);
  EXPECT_THAT(line.data(), ::testing::StartsWith("syncbn: rank 0 ("));
  EXPECT_THAT(line.data(), HasSubstr("): MPI_Init has not returned for 0 s: nobody is there\n"));
}

TEST(CommSlowCall, IsNamedByTheFirstRanksAlone) {
  ::setenv("PMIX_RANK", "2", 1);
  testing::internal::CaptureStderr();
  {
    const SlowCall watch("MPI_Init", "nobody is there", 0);
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
  }
  ::unsetenv("PMIX_RANK");
  { const SlowCall quick("MPI_Init", "nobody is there"); }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST(CommWorld, DoesNotRunAgainAfterAFailure) {
  WorldOptions options;
  options.workers = 2;
  World world = World::threads(options);
  EXPECT_EQ(message_of([&] { world.run([](Worker&) { throw Error("broken"); }); }), "broken");
  EXPECT_THAT(message_of([&] { world.run([](Worker&) {}); }), HasSubstr("cannot run again"));
}

}  // namespace
}  // namespace syncbn::detail
