// Studies through the program: alone, over ranks, killed, gone on with.

#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <sstream>

#include "cli/program.hpp"
#include "cli/tiny.hpp"

namespace syncbn::test {
namespace {

/// Six trials of about a second; one point diverges at once.
constexpr const char* kStudy = R"(
title: A small study
base: tiny
set: {train: {epochs: 2, eval_statistics: [running, precise, batch]}}
vary:
  - list:
      - {label: local, norm.group: 1}
      - {label: shared, norm.group: all}
      - {label: too fast, optimizer.lr: 1e30}
seeds: 2
)";

void prepare(const Sandbox& s) {
  s.write("tiny", kTiny);
  s.write("small.yaml", kStudy);
}

/// trials.csv without the columns that depend on the machine, which are the last five.
std::string without_times(const std::string& csv) {
  std::istringstream in(csv);
  std::string out;
  for (std::string line; std::getline(in, line);) {
    for (int i = 0; i < 5; ++i) line.erase(line.rfind(','));
    out += line + "\n";
  }
  return out;
}

/// Column `ranks`, the last but one, of the first trial.
std::string ranks_of_first(const std::string& csv) {
  std::string line = csv.substr(csv.find('\n') + 1);
  line = line.substr(0, line.find('\n'));
  line = line.substr(0, line.rfind(','));
  return line.substr(line.rfind(',') + 1);
}

TEST(CliStudy, RunsAllTrialsAndReports) {
  const Sandbox s;
  prepare(s);
  const Outcome plan = s.syncbn({"study", "small.yaml", "--dry-run"});
  EXPECT_EQ(plan.code, 0) << plan.err;
  EXPECT_TRUE(contains(plan.out, "3 points, 6 trials")) << plan.out;
  EXPECT_FALSE(std::filesystem::exists(s.file("studies")));

  const Outcome o = s.syncbn({"study", "small.yaml"});
  ASSERT_EQ(o.code, 0) << o.err;
  EXPECT_TRUE(contains(o.err, "done      local, seed 1: error")) << o.err;
  EXPECT_TRUE(contains(o.out, "2 of 6 trials diverged and count in no mean: too fast.")) << o.out;
  for (const char* name : {"study.json", "trials.csv", "trials.jsonl", "report.html"}) {
    EXPECT_TRUE(std::filesystem::exists(s.file("studies/small") / name)) << name;
  }
  const std::string csv = s.read("studies/small/trials.csv");
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 7) << csv;
  EXPECT_TRUE(contains(csv, "diverged,2,too fast,1")) << csv;
  EXPECT_TRUE(contains(csv, "the loss of step")) << csv;
  for (const char* column : {",test_accuracy,", ",test_accuracy_batch,", ",test_accuracy_precise,"}) {
    EXPECT_TRUE(contains(csv.substr(0, csv.find('\n')), column)) << csv;
  }
  int event_files = 0;
  for (const auto& e : std::filesystem::recursive_directory_iterator(s.file("studies/small/trials"))) {
    event_files += contains(e.path().filename().string(), "tfevents");
  }
  EXPECT_EQ(event_files, 6);

  // Nothing is run twice; what changed is.
  const Outcome again = s.syncbn({"study", "small.yaml"});
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_FALSE(contains(again.err, "done   ")) << again.err;
  EXPECT_EQ(s.read("studies/small/trials.csv"), csv);
  const Outcome changed = s.syncbn({"study", "small.yaml", "norm.eps=1e-4", "seeds=1"});
  EXPECT_EQ(changed.code, 0) << changed.err;
  EXPECT_TRUE(contains(changed.err, "small: 3 trials on")) << changed.err;
  EXPECT_TRUE(contains(changed.err, "studies/small leave out 6 finished trials of another plan")) << changed.err;
  EXPECT_FALSE(contains(again.err, "another plan")) << again.err;
  EXPECT_TRUE(contains(changed.err, "done      shared, seed 1")) << changed.err;

  for (const auto& trial : std::filesystem::directory_iterator(s.file("studies/small/trials"))) {
    if (!std::filesystem::exists(trial.path() / "summary.json")) continue;
    const Outcome ended = s.syncbn({"train", trial.path(), "--resume"});
    EXPECT_EQ(ended.code, 2) << ended.err;
    EXPECT_TRUE(contains(ended.err, "holds a run that has ended")) << ended.err;
  }

  s.write("r.html.tmp", "of a study that runs");
  const Outcome report = s.syncbn({"report", "studies/small", "--output", "r.html"});
  EXPECT_EQ(report.code, 0) << report.err;
  const Outcome nowhere = s.syncbn({"report", "studies/small", "--output", "absent/r.html"});
  EXPECT_EQ(nowhere.code, 1);
  EXPECT_TRUE(contains(nowhere.err, "create its folder, or choose another\n")) << nowhere.err;
  EXPECT_TRUE(contains(s.read("r.html"), "A small study"));
  EXPECT_EQ(s.read("r.html.tmp"), "of a study that runs");
  EXPECT_TRUE(contains(s.read("r.html"), "\"gaps\":{\"batch\":"));
}

TEST(CliStudy, NoResultAtAllIsAFailure) {
  const Sandbox s;
  prepare(s);
  s.write("fast.yaml", "base: tiny\nset: {optimizer: {lr: 1e30}}\nseeds: 2\n");
  const Outcome o = s.mpirun(2, {"study", "fast.yaml"});
  EXPECT_EQ(o.code, 1) << o.err;
  EXPECT_TRUE(contains(o.err, "none of 2 trials has a result: all diverged; lower the learning rate")) << o.err;
  EXPECT_TRUE(contains(s.read("studies/fast/trials.csv"), "diverged,0,")) << o.err;
}

TEST(CliStudy, SideBySideGivesTheRowsOfOneAfterAnother) {
  const Sandbox s;
  prepare(s);
  ASSERT_EQ(s.syncbn({"study", "small.yaml", "--jobs", "1", "--output", "one"}).code, 0);
  const std::string rows = without_times(s.read("one/trials.csv"));
  for (const int ranks : {2, 3}) {
    const std::string dir = "ranks" + std::to_string(ranks);
    const Outcome o = s.mpirun(ranks, {"study", "small.yaml", "--output", dir});
    ASSERT_EQ(o.code, 0) << o.err;
    EXPECT_EQ(without_times(s.read(dir + "/trials.csv")), rows);
  }
  for (const auto& trial : std::filesystem::directory_iterator(s.file("one/trials")))  // others may end meanwhile
    EXPECT_TRUE(contains(s.read(trial.path() / "config.yaml"), "cuda_graphs: false")) << trial.path();
  // One trial at a time on two ranks together: a diverging one must not stop the others.
  const Outcome team = s.mpirun(2, {"study", "small.yaml", "--jobs", "1", "--output", "a team"});
  ASSERT_EQ(team.code, 0) << team.err;
  EXPECT_TRUE(contains(team.out, "tensorboard --logdir 'a team/trials'\n")) << "to be pasted: " << team.out;
  EXPECT_TRUE(contains(s.read("a team/report.html"), "--output 'a team'"));
  EXPECT_EQ(without_times(s.read("a team/trials.csv")), rows);
  EXPECT_EQ(ranks_of_first(s.read("a team/trials.csv")), "2");
}

TEST(CliStudy, KilledAndGoneOnWithItEndsAsIfUndisturbed) {
  const Sandbox s;
  prepare(s);
  const auto command = [](const std::string& dir) {
    return std::vector<std::string>{"study", "small.yaml", "train.epochs=40", "checkpoint.every=3", "--output", dir};
  };
  ASSERT_EQ(s.mpirun(2, command("whole")).code, 0);
  // Killed when a first trial has ended; then stopped by a signal; then to the end on another number of ranks.
  const Outcome killed = s.signalled(command("cut"), "cut/trials.csv", SIGKILL);
  EXPECT_EQ(killed.code, 128 + SIGKILL);
  std::filesystem::remove(s.file("cut/trials.csv"));
  const Outcome stopped = s.signalled(command("cut"), "cut/study.json", SIGTERM);
  EXPECT_TRUE(stopped.code == 75 || stopped.code == 143) << stopped.err;  // or before it listens
  const Outcome o = s.mpirun(3, command("cut"));
  ASSERT_EQ(o.code, 0) << o.err;
  EXPECT_TRUE(contains(o.err, "finished before")) << o.err;
  EXPECT_EQ(without_times(s.read("cut/trials.csv")), without_times(s.read("whole/trials.csv")));
}

TEST(CliStudy, MistakesAreFoundBeforeAnythingIsTrained) {
  const Sandbox s;
  prepare(s);
  const auto refused = [&](const std::string& text, const std::string& message) {
    s.write("bad.yaml", "base: tiny\n" + text);
    const Outcome o = s.mpirun(2, {"study", "bad.yaml"});
    EXPECT_EQ(o.code, 2) << o.err;
    EXPECT_TRUE(contains(o.err, message)) << o.err;
    EXPECT_FALSE(std::filesystem::exists(s.file("studies")));
  };
  refused("vary: {grid: {norm.grup: [1]}}", "syncbn: bad.yaml:2: unknown key 'norm.grup'; did you mean 'norm.group'?");
  refused("vary: {grid: {norm.group: []}}", "bad.yaml:2: norm.group: expected a list of values");
  refused("vary: {grid: {norm.group: [1, 2]}}", "2 does not divide workers = 3");
  s.write("data.yaml", "base: mnist_lenet\nset: {workers: 2}");
  const Outcome data = s.syncbn({"study", "data.yaml"});
  EXPECT_EQ(data.code, 65) << data.err;
  EXPECT_TRUE(contains(data.err, "syncbn data get mnist")) << data.err;
  EXPECT_TRUE(contains(s.syncbn({"study", "."}).err, "syncbn: .: is a directory; name the study's file"));
  const Outcome other = s.syncbn({"study", "quickstart"});
  EXPECT_EQ(other.code, 2);
  EXPECT_TRUE(contains(other.err, "train it with: syncbn train quickstart")) << other.err;
  const Outcome cuda = s.mpirun(2, {"study", "small.yaml", "device=cuda"}, {"SYNCBN_CUDA_MODULE=/nowhere.so"});
  EXPECT_EQ(cuda.code, 69) << cuda.err;
  EXPECT_TRUE(contains(cuda.err, "syncbn: device: cuda: ")) << cuda.err;
  EXPECT_FALSE(std::filesystem::exists(s.file("studies")));
  const Outcome report = s.syncbn({"report", "."});
  EXPECT_EQ(report.code, 2);
  EXPECT_TRUE(contains(report.err, "holds no study")) << report.err;
}

TEST(CliStudy, AliensStayAsTheyAre) {
  const Sandbox s;
  prepare(s);
  ASSERT_EQ(s.syncbn({"train", "tiny", "train.steps=1", "--output", "run"}).code, 0);
  for (const int ranks : {1, 3}) {
    const Outcome run = s.mpirun(ranks, {"study", "small.yaml", "--output", "run"});
    EXPECT_EQ(run.code, 2) << run.err;
    EXPECT_TRUE(contains(run.err, "syncbn: run is not empty, and holds no study; choose another --output\n"))
        << run.err;
    EXPECT_FALSE(std::filesystem::exists(s.file("run/trials")));
  }
  ASSERT_EQ(s.syncbn({"study", "small.yaml", "seeds=1"}).code, 0);
  std::filesystem::create_symlink("aim", s.file("link"));
  for (const std::string file : {"link", "run", "/dev/null"}) {
    const Outcome o = s.syncbn({"report", "studies/small", "--output", file});
    EXPECT_EQ(o.code, 2) << o.err;
    EXPECT_EQ(o.err, "syncbn: " + file + " is not a regular file; choose another name\n");
  }
  EXPECT_TRUE(std::filesystem::is_symlink(s.file("link")));
  // Started on several ranks, the first one writes.
  const Outcome ranks = s.mpirun(3, {"report", "studies/small"});
  EXPECT_EQ(ranks.code, 0) << ranks.err;
  EXPECT_EQ(ranks.out.find("report  "), ranks.out.rfind("report  ")) << ranks.out;
}

TEST(CliStudy, PointsThatAreAlikeAreOneTraining) {
  const Sandbox s;
  prepare(s);
  s.write(
      "alike.yaml",
      "base: tiny\nset: {train.steps: 1}\nvary: {grid: {optimizer.name: [sgd, adam], optimizer.beta1: [0.8, 0.95]}}\n"
      "seeds: 1\n");
  const Outcome plan = s.syncbn({"study", "alike.yaml", "--dry-run"});
  EXPECT_TRUE(contains(plan.out, "4 points (3 different), 3 trials\n")) << plan.out << plan.err;
  const Outcome o = s.syncbn({"study", "alike.yaml"});
  ASSERT_EQ(o.code, 0) << o.err;
  EXPECT_TRUE(contains(o.err, "syncbn: alike: 3 trials on")) << o.err;
  EXPECT_TRUE(contains(s.read("studies/alike/report.html"), "\"trials_planned\":3,\"trials_ended\":3,"));
}

TEST(CliStudy, TheSameNumberOfTrialsIsSaidEverywhere) {
  const Sandbox s;
  prepare(s);
  // Without normalization both groups are one training.
  s.write("search.yaml",
          "base: tiny\nset: {train.steps: 2}\nvary: {grid: {norm.type: [batch, none], norm.group: [1, all]}}\n"
          "learning_rate: {search: [0.5, 1]}\nseeds: 1\n");
  const Outcome plan = s.syncbn({"study", "search.yaml", "--dry-run"});
  EXPECT_TRUE(contains(plan.out, "4 points (3 different), up to 9 trials (6 of them to choose learning rates)\n"))
      << plan.out << plan.err;
  const Outcome o = s.syncbn({"study", "search.yaml"});
  ASSERT_EQ(o.code, 0) << o.err;
  EXPECT_TRUE(contains(o.out, "Learning rates were chosen by their error on the test images")) << o.out;
  const std::string page = s.read("studies/search/report.html");
  EXPECT_TRUE(contains(page, "\"trials_planned\":9,\"trials_ended\":9,\"trials_of_search\":6,"));
}

TEST(CliStudy, AFullDiskLosesNothing) {
  const Sandbox s;
  prepare(s);
  // A limit on the size of files stands in for the disk: weights do not fit, and the signal becomes an error.
  s.write("full.sh", "ulimit -f 4\nexec \"$1\" study small.yaml --output full\n");
  ASSERT_EQ(s.syncbn({"study", "small.yaml", "seeds=1", "--output", "full"}).code, 0);
  const Outcome full = s.shell("full.sh");
  EXPECT_EQ(full.code, 1) << full.err;
  EXPECT_TRUE(contains(full.err, "free some space there")) << full.err;
  const Outcome o = s.syncbn({"study", "small.yaml", "--output", "full"});
  EXPECT_EQ(o.code, 0) << o.err;
  EXPECT_TRUE(contains(o.err, "3 of them finished before")) << o.err;
}

}  // namespace
}  // namespace syncbn::test
