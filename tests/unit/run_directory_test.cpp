#include "train/storage/run_directory.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <thread>

#include "support/checkpoint_states.hpp"
#include "support/temp_dir.hpp"
#include "syncbn/core/error.hpp"
#include "syncbn/train/config.hpp"

namespace syncbn {
namespace {

std::string usage_error(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::usage) << e.what();
    EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos);
    return e.what();
  }
  return "no error";
}

Config config_of(const std::vector<std::string>& overrides) {
  return parse_config("", "test.yaml", overrides);
}

RunDirectory create(const std::string& path, const Config& config = config_of({})) {
  return RunDirectory::create(path, to_yaml(config), {"seed=3"}, {"syncbn", "train", "it's.yaml"});
}

RunDirectory resume(const std::string& path, const Config& config = config_of({})) {
  return RunDirectory::resume(path, config, {}, {"syncbn", "train", "--resume"});
}

TEST(RunDirectory, RecordsTheStart) {
  const TempDir dir;
  const std::string path = dir / "runs/first";
  const RunDirectory run = create(path);
  EXPECT_EQ(run.path(), path);
  EXPECT_EQ(run.file("summary.json"), path + "/summary.json");
  EXPECT_EQ(slurp(path + "/config.yaml"), to_yaml(config_of({})));
  EXPECT_EQ(slurp(path + "/overrides.txt"), "seed=3\n");
  EXPECT_EQ(slurp(path + "/command.txt"), "syncbn train 'it'\\''s.yaml'\n");
  const auto environment = nlohmann::json::parse(slurp(path + "/environment.json"));
  EXPECT_FALSE(environment.at("host").get<std::string>().empty());
  EXPECT_TRUE(environment.at("versions").contains("compiler"));
}

TEST(RunDirectory, IsUsableWhereNothingWasStarted) {
  const TempDir dir;
  RunDirectory::require_usable(dir / "absent", false);
  std::filesystem::create_directory(dir / "run");
  RunDirectory::require_usable(dir / "run", false);
  spit(dir / "run/.lock", "process 1 on here");  // a start that failed
  RunDirectory::require_usable(dir / "run", false);
  spit(dir / "run/config.yaml", "");
  RunDirectory::require_usable(dir / "run", true);
  EXPECT_EQ(usage_error([&] { RunDirectory::require_usable(dir / "run", false); }),
            dir / "run is not empty; add --resume to go on with the run in it, or choose another output.dir");
  EXPECT_EQ(usage_error([&] { RunDirectory::require_usable(dir / "run/.lock", true); }),
            dir / "run/.lock is a file; choose another output.dir");
}

TEST(RunDirectory, RecordsTheLaunchersVariablesButNoSecrets) {
  ::setenv("OMP_NUM_THREADS", "3\xff", 1);
  ::setenv("SLURM_JWT", "secret", 1);
  const TempDir dir;
  create(dir / "run");
  const auto variables = nlohmann::json::parse(slurp(dir / "run/environment.json")).at("variables");
  EXPECT_EQ(variables.at("OMP_NUM_THREADS"), "3\xef\xbf\xbd");
  EXPECT_FALSE(variables.contains("SLURM_JWT"));
  ::unsetenv("OMP_NUM_THREADS");
  ::unsetenv("SLURM_JWT");
}

TEST(RunDirectory, CreatesExclusively) {
  const TempDir dir;
  std::filesystem::create_directory(dir / "empty");
  create(dir / "empty");
  const std::string message = usage_error([&] { create(dir / "empty"); });
  EXPECT_NE(message.find("not empty"), std::string::npos) << message;
  EXPECT_NE(message.find("--resume"), std::string::npos) << message;
  std::filesystem::create_directory(dir / "other");
  spit(dir / "other/thesis.txt", "mine");
  EXPECT_NE(usage_error([&] { create(dir / "other"); }).find("not empty"), std::string::npos);
  EXPECT_NE(usage_error([&] { resume(dir / "other"); }).find("holds no run"), std::string::npos);
  spit(dir / "file", "");
  EXPECT_THROW(create(dir / "file"), Error);
}

TEST(RunDirectory, ResumesTheSameExperiment) {
  const TempDir dir;
  { create(dir / "run"); }
  spit(dir / "run/summary.json.tmp", "left by a crash");
  { resume(dir / "run", config_of({"threads=2", "checkpoint.keep=5"})); }
  EXPECT_EQ(slurp(dir / "run/config.yaml"), to_yaml(config_of({"threads=2", "checkpoint.keep=5"})));
  EXPECT_EQ(slurp(dir / "run/command.txt"), "syncbn train 'it'\\''s.yaml'\nsyncbn train --resume\n");
  EXPECT_FALSE(std::filesystem::exists(dir / "run/summary.json.tmp"));
  { resume(dir / "absent"); }
  EXPECT_EQ(slurp(dir / "absent/config.yaml"), to_yaml(config_of({})));
}

TEST(RunDirectory, ResumesWhereverTheDataAreNow) {
  const TempDir dir;
  const auto pictures = [](const std::string& path) {
    return config_of({"data.kind=image-folder", "data.path=" + path});
  };
  { create(dir / "run", pictures("g")); }
  { resume(dir / "run", pictures("/elsewhere/g/")); }
  EXPECT_EQ(slurp(dir / "run/config.yaml"), to_yaml(pictures("/elsewhere/g/")));
}

TEST(RunDirectory, ResumesWhatAnEarlierVersionWroteWithValuesThatNothingReads) {
  const TempDir dir;
  Config idle = config_of({});
  idle.schedule.gamma = 0.5;
  { create(dir / "run", idle); }
  { resume(dir / "run"); }
  EXPECT_EQ(slurp(dir / "run/config.yaml"), to_yaml(config_of({})));
}

TEST(RunDirectory, ResumesAStartThatWasInterrupted) {
  const TempDir dir;
  spit(dir / ".lock", "process 1 on nowhere");
  spit(dir / "config.yaml.tmp", "half");
  { create(dir.path()); }
  EXPECT_EQ(slurp(dir / "config.yaml"), to_yaml(config_of({})));
}

TEST(RunDirectory, RefusesAnotherExperiment) {
  const TempDir dir;
  { create(dir / "run"); }
  const std::string message = usage_error([&] { resume(dir / "run", config_of({"norm.eps=0.001"})); });
  EXPECT_NE(message.find("holds another experiment"), std::string::npos) << message;
  EXPECT_NE(message.find("norm: eps: 0.001"), std::string::npos) << message;
  EXPECT_EQ(message.find("model.weights"), std::string::npos) << message;
  const std::string longer = usage_error([&] { resume(dir / "run", config_of({"train.epochs=100"})); });
  EXPECT_NE(longer.find("model.weights=" + dir / "run/last goes on from its weights alone: optimizer,"),
            std::string::npos)
      << longer;
  spit(dir / "run/config.yaml", "norm: [");
  EXPECT_NE(usage_error([&] { resume(dir / "run"); }).find("config.yaml"), std::string::npos);
}

TEST(RunDirectory, WhatHasEndedWithoutACheckpointIsNotBegunAnew) {
  const TempDir dir;
  { create(dir / "run"); }
  spit(dir / "run/summary.json", "{}");
  EXPECT_EQ(usage_error([&] { resume(dir / "run"); }),
            dir / "run holds a run that has ended, without a checkpoint; its result is in " + dir.path() +
                "/run/summary.json; choose another output.dir to train it again");
  EXPECT_EQ(slurp(dir / "run/command.txt"), "syncbn train 'it'\\''s.yaml'\n");
}

TEST(RunDirectory, ASecondJobIsRefused) {
  const TempDir dir;
  {
    const RunDirectory run = create(dir / "run");
    const std::string message = usage_error([&] { resume(dir / "run"); });
    EXPECT_NE(message.find("in use by process " + std::to_string(::getpid()) + " on "), std::string::npos) << message;
    const RunDirectory copy = run;
  }
  resume(dir / "run");
}

TEST(RunDirectory, TheLockDiesWithItsProcess) {
  const TempDir dir;
  const pid_t child = ::fork();
  if (child == 0) {
    const RunDirectory run = create(dir / "run");
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
  resume(dir / "run");
}

TEST(RunDirectory, OneThatAnotherRunHasTakenOverIsLeftAlone) {
  const TempDir dir;
  RunDirectory first = create(dir / "run");
  CheckpointStore checkpoints(dir / "run", 1, true, nullptr, first.lock());
  first.append_metrics("{}");
  checkpoints.save(training_state(5), false);
  std::filesystem::remove_all(dir / "run");
  const auto refuses_to_write = [&] {
    const std::vector<std::function<void()>> writers = {
        [&] { first.append_metrics("{}"); }, [&] { first.append_probes("{}\n"); }, [&] { first.write_weights({}); },
        [&] { first.write_summary("{}"); }, [&] { checkpoints.save(training_state(6), false); }};
    for (const auto& write : writers) {
      try {
        write();
        ADD_FAILURE() << "no error";
      } catch (const Error& e) {
        EXPECT_THAT(e.what(), testing::HasSubstr(dir / "run has been removed, or taken over by another run"));
      }
    }
  };
  refuses_to_write();
  EXPECT_FALSE(std::filesystem::exists(dir / "run"));

  RunDirectory second = create(dir / "run");
  second.append_metrics(R"({"step":1})");
  CheckpointStore(dir / "run", 1, true, nullptr, second.lock()).save(training_state(9), false);
  const std::set<std::string> whole = tree_of(dir / "run");
  refuses_to_write();
  EXPECT_EQ(tree_of(dir / "run"), whole);
  EXPECT_EQ(slurp(second.file("metrics.jsonl")), "{\"step\":1}\n");
}

TEST(RunDirectory, OfManyStartsAtOnceExactlyOneWins) {
  for (int round = 0; round < 20; ++round) {
    const TempDir dir;
    std::vector<pid_t> children;
    for (int i = 0; i < 4; ++i) {
      children.push_back(::fork());
      if (children.back() != 0) continue;
      try {
        const RunDirectory run = create(dir / "run");
        ::_exit(0);
      } catch (const Error&) {
        ::_exit(1);
      }
    }
    int winners = 0;
    for (const pid_t child : children) {
      int status = 0;
      ::waitpid(child, &status, 0);
      winners += status == 0;
    }
    EXPECT_EQ(winners, 1);
  }
}

TEST(RunDirectory, AppendsAndTruncatesMetrics) {
  const TempDir dir;
  RunDirectory run = create(dir / "run");
  EXPECT_EQ(run.truncate_metrics(5), 0);
  EXPECT_FALSE(std::filesystem::exists(run.file("metrics.jsonl")));
  const std::string header = R"({"schema":1})", one = R"({"step":1,"loss":2.5})", two = R"({"step":2,"loss":2.25})",
                    three = R"({"step":3,"loss":2})";
  for (const std::string& line : {header, one, two, three}) run.append_metrics(line);
  EXPECT_EQ(slurp(run.file("metrics.jsonl")), header + "\n" + one + "\n" + two + "\n" + three + "\n");

  // A line that is whole but for its end, one that was torn, and what a power failure leaves.
  EXPECT_EQ(run.truncate_metrics(2), 2);
  EXPECT_EQ(slurp(run.file("metrics.jsonl")), header + "\n" + one + "\n" + two + "\n");
  spit(run.file("metrics.jsonl"), header + "\n" + one + "\n" + two);
  EXPECT_EQ(run.truncate_metrics(2), 2);
  EXPECT_EQ(slurp(run.file("metrics.jsonl")), header + "\n" + one + "\n" + two + "\n");
  spit(run.file("metrics.jsonl"), header + "\n" + one + "\n" + two.substr(0, 9));
  EXPECT_EQ(run.truncate_metrics(2), 1);
  EXPECT_EQ(slurp(run.file("metrics.jsonl")), header + "\n" + one + "\n");
  spit(run.file("metrics.jsonl"), one + "\n" + std::string(20, '\0'));
  EXPECT_EQ(run.truncate_metrics(2), 1);
  EXPECT_EQ(slurp(run.file("metrics.jsonl")), one + "\n");
  EXPECT_EQ(run.truncate_metrics(0), 0);
  EXPECT_EQ(slurp(run.file("metrics.jsonl")), "");
}

TEST(RunDirectory, WritesTheSummary) {
  const TempDir dir;
  RunDirectory run = create(dir / "run");
  run.write_summary("{\"steps\": 1}\n");
  run.write_summary("{\"steps\": 2}\n");
  EXPECT_EQ(slurp(run.file("summary.json")), "{\"steps\": 2}\n");
}

}  // namespace
}  // namespace syncbn
