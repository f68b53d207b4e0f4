// Checkpoints under failing system calls, full disks and power failures.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>

#include <algorithm>
#include <filesystem>
#include <functional>

#include "support/checkpoint_states.hpp"
#include "support/faulty_files.hpp"
#include "support/temp_dir.hpp"
#include "syncbn/core/error.hpp"
#include "train/storage/checkpoint.hpp"

namespace syncbn {
namespace {

struct Save {
  std::int64_t step;
  float variant;
  bool best;
};

struct Scenario {
  const char* name;
  int keep;
  std::vector<Save> before;  // undisturbed
  Save save;                 // disturbed
};

const std::vector<Scenario>& scenarios() {
  static const std::vector<Scenario> all = {
      {"the first", 2, {}, {1, 0, false}},
      {"one more", 2, {{1, 0, false}}, {2, 0, false}},
      {"one more, removing the last", 1, {{1, 0, false}}, {2, 0, false}},
      {"one more, removing an old best", 1, {{1, 0, true}, {2, 0, false}}, {3, 0, true}},
      {"the same again", 1, {{1, 0, false}, {2, 0, false}}, {2, 0, true}},
      {"the same step with other content", 2, {{1, 0, false}, {2, 0, false}}, {2, 5, false}},
  };
  return all;
}

/// The store holds the state before the disturbed save or the one after it, whole; and no debris once that is cleared.
void expect_old_or_new(const Scenario& scenario, const std::string& dir, const std::string& context) {
  std::vector<std::string> refused;
  CheckpointStore store(dir, scenario.keep, true);
  const auto found = store.load_newest(&refused);
  EXPECT_TRUE(refused.empty()) << context << ": " << refused[0];
  bool allowed = !found && scenario.before.empty();
  if (found) {
    allowed = same_state(*found, training_state(scenario.save.step, scenario.save.variant));
    for (const Save& save : scenario.before) {
      // Only when the newest is replaced by other content does an older one count.
      const bool newest = save.step == scenario.before.back().step;
      if (!newest && scenario.save.step != scenario.before.back().step) continue;
      allowed |= same_state(*found, training_state(save.step, save.variant));
    }
  }
  ASSERT_TRUE(allowed) << context << ": found " << (found ? std::to_string(found->step) : "nothing");

  store.remove_debris();
  const auto left = std::filesystem::exists(dir + "/checkpoints") ? tree_of(dir) : clean_tree({});
  ASSERT_EQ(left, clean_tree(store.steps())) << context;
}

class FailingCalls : public testing::TestWithParam<std::pair<bool, int>> {};
INSTANTIATE_TEST_SUITE_P(OnceAndSticky, FailingCalls,
                         testing::Values(std::pair{false, EIO}, std::pair{true, EIO}, std::pair{false, ENOSPC},
                                         std::pair{true, EROFS}));

TEST_P(FailingCalls, LeaveTheOldOrTheNewCheckpoint) {
  const auto [sticky, error] = GetParam();
  for (const Scenario& scenario : scenarios()) {
    int failures = 0;
    for (int k = 0;; ++k) {
      const std::string context = std::string(scenario.name) + ", call " + std::to_string(k);
      const TempDir dir;
      CheckpointStore good(dir.path(), scenario.keep, true);
      for (const Save& save : scenario.before) good.save(training_state(save.step, save.variant), save.best);

      const auto files = std::make_shared<FailingFiles>(k, sticky, error);
      CheckpointStore bad(dir.path(), scenario.keep, true, files);
      const Save& save = scenario.save;
      bool threw = false;
      try {
        bad.save(training_state(save.step, save.variant), save.best);
      } catch (const Error& e) {
        threw = true;
        EXPECT_EQ(e.code(), ExitCode::failure);
        EXPECT_NE(std::string(e.what()).find(dir.path()), std::string::npos) << e.what();
        EXPECT_NE(std::string(e.what()).find("choose another"), std::string::npos) << e.what();
      }
      if (!files->failed()) {
        EXPECT_FALSE(threw) << context;
        EXPECT_GT(failures, 20) << "the calls of a save did not pass through the seam";
        break;
      }
      failures += threw;
      if (threw && !sticky) {
        // A failure that does not last leaves nothing behind, even before anybody cleans up.
        const auto left = std::filesystem::exists(dir / "checkpoints") ? tree_of(dir.path()) : clean_tree({});
        EXPECT_TRUE(std::none_of(left.begin(), left.end(), [](auto& path) { return path.ends_with(".tmp"); }))
            << context;
      }
      expect_old_or_new(scenario, dir.path(), context);
      if (!threw) {
        EXPECT_EQ(files->first_failed_call(), "close") << context << ": only closing what was just synced is harmless";
        EXPECT_TRUE(same_state(*good.load_newest(nullptr), training_state(save.step, save.variant))) << context;
      }
      good.save(training_state(99), false);
      EXPECT_TRUE(same_state(*good.load_newest(nullptr), training_state(99))) << context;
      if (HasFatalFailure()) return;
    }
  }
}

TEST(Checkpoint, SurvivesPowerFailureAfterEveryCall) {
  Random random(5, Purpose::test);
  int states = 0;
  for (const Scenario& scenario : scenarios()) {
    const TempDir dir;
    const auto files = std::make_shared<RecordingFiles>(dir.path());
    CheckpointStore store(dir.path(), scenario.keep, true, files);
    for (const Save& save : scenario.before) store.save(training_state(save.step, save.variant), save.best);
    const std::size_t start = files->calls();
    store.save(training_state(scenario.save.step, scenario.save.variant), scenario.save.best);
    for (std::size_t calls = start; calls <= files->calls(); ++calls) {
      for (int i = 0; i < 60; ++i, ++states) {
        const TempDir crashed;
        files->rebuild(calls, random, crashed.path());
        const std::string context = std::string(scenario.name) + ", after call " + std::to_string(calls - start);
        expect_old_or_new(scenario, crashed.path(), context);
        if (calls == files->calls()) {
          const auto found = CheckpointStore(crashed.path(), 1, false).load_newest(nullptr);
          ASSERT_TRUE(found && same_state(*found, training_state(scenario.save.step, scenario.save.variant)))
              << context << ": a finished save was lost";
        }
        if (HasFatalFailure()) return;
      }
    }
  }
  EXPECT_GE(states, 5000);
}

TEST(Checkpoint, WhereThereIsOneItsLogsAreWhole) {
  Random random(6, Purpose::test);
  const TempDir dir;
  const auto files = std::make_shared<RecordingFiles>(dir.path());
  const std::string line = "{\"step\": 1}\n", log = dir / "metrics.jsonl";
  const int fd = files->open(log, O_WRONLY | O_CREAT, 0666);
  files->write(fd, line.data(), line.size());
  files->close(fd);
  CheckpointStore(dir.path(), 2, true, files).save(training_state(1), false, {log, dir / "absent.jsonl"});
  for (std::size_t calls = 0; calls <= files->calls(); ++calls) {
    for (int i = 0; i < 60; ++i) {
      const TempDir crashed;
      files->rebuild(calls, random, crashed.path());
      if (CheckpointStore(crashed.path(), 2, true).steps().empty()) continue;
      ASSERT_EQ(slurp(crashed / "metrics.jsonl"), line) << "after call " << calls;
    }
  }
}

TrainingState big_state(std::int64_t step) {
  TrainingState state = training_state(step);
  state.model.put_f32("fc.weight", {10000}, std::vector<float>(10000, 1.5f));
  return state;
}

void expect_full_disk(const std::string& dir, const std::string& reason) {
  CheckpointStore store(dir, 2, false);
  store.save(training_state(1), false);
  const auto before = tree_of(dir);
  try {
    store.save(big_state(2), false);
    FAIL() << "40 kB fitted";
  } catch (const Error& e) {
    const std::string message = e.what();
    EXPECT_EQ(e.code(), ExitCode::failure);
    EXPECT_NE(message.find("checkpoint of step 2 failed"), std::string::npos) << message;
    EXPECT_NE(message.find("model.safetensors: " + reason), std::string::npos) << message;
    EXPECT_NE(message.find("free some space"), std::string::npos) << message;
  }
  EXPECT_EQ(tree_of(dir), before);
  EXPECT_TRUE(same_state(*store.load_newest(nullptr), training_state(1)));
  store.save(training_state(3), false);
}

TEST(Checkpoint, FullDisk) {
  const TempDir dir;
  if (::mount("tmpfs", dir.path().c_str(), "tmpfs", 0, "size=32k") == 0) {
    expect_full_disk(dir.path(), "No space left on device");
    ::umount(dir.path().c_str());
    return;
  }
  // Without the right to mount: a limit on the size of a file.
  rlimit old{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  const rlimit small{8192, old.rlim_max};
  const auto handler = ::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  expect_full_disk(dir.path(), "File too large");
  ::setrlimit(RLIMIT_FSIZE, &old);
  ::signal(SIGXFSZ, handler);
}

TEST(Checkpoint, DurableFilesReplaceOrStay) {
  const TempDir dir;
  const std::string path = dir / "summary.json", old_text = "old", new_text = "new and longer";
  for (const bool sticky : {false, true}) {
    for (int k = 0;; ++k) {
      write_file_durably(path, std::as_bytes(std::span(old_text)));
      FailingFiles files(k, sticky, EIO);
      try {
        write_file_durably(files, path, std::as_bytes(std::span(new_text)));
      } catch (const Error&) {
      }
      const std::string found = slurp(path);
      EXPECT_TRUE(found == old_text || found == new_text) << k << ": " << found;
      if (!sticky) {
        EXPECT_FALSE(std::filesystem::exists(path + ".tmp")) << k;
      }
      if (!files.failed()) break;
    }
  }
  EXPECT_EQ(slurp(path), new_text);
}

}  // namespace
}  // namespace syncbn
