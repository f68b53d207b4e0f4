// Runs the same tests on every rank; a failure on any rank fails them all.
#include <gtest/gtest.h>
#include <mpi.h>

#include <cstdio>

#include "syncbn/comm/world.hpp"

namespace {

/// Prints what fails, with the rank it failed on.
class FailuresOnly : public testing::EmptyTestEventListener {
 public:
  explicit FailuresOnly(int rank) : rank_(rank) {}
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (result.failed())
      std::fprintf(stderr, "rank %d: %s:%d: %s\n", rank_, result.file_name() ? result.file_name() : "?",
                   result.line_number(), result.message());
  }
  void OnTestEnd(const testing::TestInfo& info) override {
    if (info.result()->Failed())
      std::fprintf(stderr, "rank %d: FAILED %s.%s\n", rank_, info.test_suite_name(), info.name());
  }

 private:
  int rank_;
};

/// Keeps the ranks together between tests, so that one that fails early does not leave the others behind.
class Together : public testing::EmptyTestEventListener {
 public:
  void OnTestStart(const testing::TestInfo&) override { MPI_Barrier(MPI_COMM_WORLD); }
};

}  // namespace

int main(int argc, char** argv) {
  const syncbn::MpiEnvironment environment;
  testing::InitGoogleTest(&argc, argv);
  auto& listeners = testing::UnitTest::GetInstance()->listeners();
  if (environment.rank() != 0) {
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new FailuresOnly(environment.rank()));
  }
  listeners.Append(new Together);
  int failed = RUN_ALL_TESTS();
  MPI_Allreduce(MPI_IN_PLACE, &failed, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  return failed;
}
