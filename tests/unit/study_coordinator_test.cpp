// Which trials rank 0 starts, and when; nothing is trained.

#include "study/running/coordinator.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <ctime>
#include <filesystem>

#include "support/temp_dir.hpp"

namespace syncbn {
namespace {

class StudyCoordinator : public testing::Test {
 protected:
  void prepare(const std::string& study) {
    request_.study = parse_study(
        "base: quickstart\nset: {workers: 1, data.train_limit: 20, data.test_limit: 10}\n" + study, "my.yaml", {});
    request_.dir = dir_ / "study";
    request_.threads_per_rank = 4;
  }
  /// What this rank is asked to train.
  std::vector<Note> started() {
    std::vector<Note> notes;
    while (const auto letter = teams_.receive()) notes.push_back(Note::parse(letter->text));
    return notes;
  }
  static void end(Coordinator& coordinator, const Note& started) {
    coordinator.take({{"is", "ended"}, {"job", started.at("job")}, {"how", "diverged"}, {"message", "so"}}, 0);
  }

  TempDir dir_;
  Teams teams_;
  StudyRequest request_;
};

TEST_F(StudyCoordinator, RunsAtOnceWhatFitsIntoTheMemory) {
  prepare("seeds: 3\n");
  const std::int64_t of_one = resolve(request_.study).at(0).memory_bytes;
  ASSERT_GT(of_one, 0);
  const std::vector<std::pair<std::int64_t, std::size_t>> cases = {
      {0, 3}, {1, 1}, {2 * of_one - 1, 1}, {2 * of_one, 2}, {3 * of_one, 3}};
  for (const auto& [memory_bytes, at_once] : cases) {
    std::filesystem::remove_all(request_.dir);
    request_.memory_bytes = memory_bytes;
    Coordinator coordinator(request_, teams_);
    coordinator.assign();
    const std::vector<Note> first = started();
    ASSERT_EQ(first.size(), at_once) << memory_bytes;
    end(coordinator, first[0]);
    coordinator.assign();
    EXPECT_EQ(started().size(), at_once < 3 ? 1u : 0u) << memory_bytes;
  }
}

TEST_F(StudyCoordinator, StartsSearchesBeforeLongerTrials) {
  prepare("vary: {grid: {train.epochs: [9, 1]}}\nlearning_rate: {search: [0.5, 1]}\nseeds: 1\n");
  request_.jobs = 1;
  Coordinator coordinator(request_, teams_);
  std::vector<std::string> order;
  for (coordinator.assign(); !coordinator.finished(); coordinator.assign()) {
    const Note note = started().at(0);
    const auto settings = note.at("settings").get<std::vector<std::pair<std::string, std::string>>>();
    const bool search = settings.back().second == std::to_string(request_.study.lr_seed);
    order.push_back(settings.front().second + (search ? " search" : ""));
    end(coordinator, note);
  }
  EXPECT_EQ(order, (std::vector<std::string>{"9 search", "9 search", "1 search", "1 search", "9", "1"}));
}

// As somebody leaves it who has removed a damaged outcome.json: there is no checkpoint to go on from.
TEST_F(StudyCoordinator, TakesTheResultOfASummaryWhoseOutcomeIsGone) {
  prepare("seeds: 1\n");
  request_.jobs = 1;
  std::string folder;
  {
    Coordinator coordinator(request_, teams_);
    coordinator.assign();
    folder = started().at(0).at("folder").get<std::string>();
  }
  std::filesystem::create_directories(folder + "/checkpoints");
  const std::string summary = R"({"schema":1,"test_accuracy":0.5,"seconds":2,"ranks":1,"threads":4})";
  spit(folder + "/summary.json", summary);
  EXPECT_EQ(Coordinator(request_, teams_).result().done, 1);
  const Results results = read_results(request_.dir);
  ASSERT_TRUE(results.rows.at(0).outcome);
  EXPECT_EQ(results.rows[0].outcome->error(), 50);

  // With a checkpoint it goes on from there.
  std::filesystem::remove(folder + "/outcome.json");
  std::filesystem::create_directories(folder + "/checkpoints/step-000000001");
  spit(folder + "/checkpoints/step-000000001/manifest.json", "{}");
  EXPECT_EQ(Coordinator(request_, teams_).result().done, 0);
}

// A kill between a trial's outcome and the removal of its checkpoints leaves them.
TEST_F(StudyCoordinator, RemovesTheCheckpointsOfFinishedTrials) {
  prepare("seeds: 1\n");
  std::string folder;
  {
    Coordinator coordinator(request_, teams_);
    coordinator.assign();
    const Note note = started().at(0);
    folder = note.at("folder").get<std::string>();
    end(coordinator, note);
  }
  std::filesystem::create_directories(folder + "/checkpoints/step-000000001");
  EXPECT_EQ(Coordinator(request_, teams_).result().diverged, 1);
  EXPECT_FALSE(std::filesystem::exists(folder + "/checkpoints"));
}

// The plan of thousands of trials takes longer to write than a small trial.
TEST_F(StudyCoordinator, WritesTheGrowingPlanWithTheTables) {
  prepare("vary: {grid: {norm.eps: [1e-3, 1e-4, 1e-5]}}\nlearning_rate: {search: [0.5, 1]}\nseeds: 1\n");
  request_.jobs = 1;
  Coordinator coordinator(request_, teams_);
  const std::string plan = request_.dir + "/study.json";
  EXPECT_EQ(read_results(request_.dir).rows.size(), 6u);
  for (int search = 0; search < 6; ++search) {
    coordinator.assign();
    end(coordinator, started().at(0));
    if (search == 0) std::filesystem::remove(plan);  // with the first end come tables
  }
  EXPECT_FALSE(std::filesystem::exists(plan));
  coordinator.write();
  EXPECT_EQ(read_results(request_.dir).rows.size(), 9u);
}

double cpu_seconds() {
  return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
}

// It is asked after every letter, and every other millisecond: counting the trials each time would take half a core.
TEST_F(StudyCoordinator, ShowsThousandsOfTrialsOnlyWhenItIsTime) {
  prepare("vary: {grid: {norm.eps: [1e-3, 1e-4]}}\nseeds: 300\n");
  Coordinator coordinator(request_, teams_);
  const double start = cpu_seconds();
  for (int i = 0; i < 20000; ++i) coordinator.show();
  EXPECT_LT(cpu_seconds() - start, 0.2);
}

TEST(StudyDirectory, FindsThousandsOfFoldersInOneListing) {
  constexpr int kTrials = 3000;
  const TempDir dir;
  for (int i = 0; i < kTrials; ++i) std::filesystem::create_directories(dir / fmt::format("trials/an-{:012x}", i));
  const StudyDirectory store(dir.path());
  const double start = cpu_seconds();
  for (int i = 0; i < kTrials; ++i) {
    const std::string hash = fmt::format("{:012x}", i);
    ASSERT_EQ(store.folder_of(hash, "another label", 1), "trials/an-" + hash);
  }
  EXPECT_LT(cpu_seconds() - start, 0.5);
  EXPECT_EQ(store.folder_of("0123456789ab", "a label", 7), "trials/a-label-seed-7-0123456789ab");
}

TEST(StudyRankWatch, EachSilenceIsToldOnce) {
  RankWatch watch(3, {"a", "b", "c"});
  EXPECT_FALSE(watch.missed(1, 1e6));
  EXPECT_FALSE(watch.heard(1));
  EXPECT_TRUE(watch.missed(1, -1));
  EXPECT_FALSE(watch.missed(1, -1));
  EXPECT_TRUE(watch.missed(2, -1)) << "another rank";
  EXPECT_TRUE(watch.heard(1));
  EXPECT_FALSE(watch.heard(1));
  EXPECT_TRUE(watch.missed(1, -1)) << "another silence";
  EXPECT_EQ(watch.silence(1), "rank 1 (b) has not been heard from for 0 s: stopped, stuck or unreachable");
}

}  // namespace
}  // namespace syncbn
