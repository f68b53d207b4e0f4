#include "train/storage/checkpoint.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <set>
#include <thread>

#include "support/checkpoint_states.hpp"
#include "support/temp_dir.hpp"
#include "syncbn/core/error.hpp"
#include "train/storage/manifest.hpp"

namespace syncbn {
namespace {

namespace fs = std::filesystem;
using Steps = std::vector<std::int64_t>;

TEST(Checkpoint, RoundTrip) {
  const TempDir dir;
  CheckpointStore store(dir.path(), 2, true);
  std::vector<std::string> refused;
  EXPECT_FALSE(store.load_newest(&refused));
  EXPECT_TRUE(store.steps().empty());
  store.save(training_state(7), false);
  const auto loaded = CheckpointStore(dir.path(), 2, true).load_newest(&refused);
  ASSERT_TRUE(loaded);
  EXPECT_TRUE(same_state(*loaded, training_state(7)));
  EXPECT_TRUE(refused.empty());
  EXPECT_EQ(tree_of(dir.path()),
            (std::set<std::string>{
                "checkpoints", "checkpoints/step-000000007", "checkpoints/step-000000007/manifest.json",
                "checkpoints/step-000000007/model.safetensors", "checkpoints/step-000000007/optimizer.safetensors"}));
}

TEST(Checkpoint, KeepsTheLastAndTheBest) {
  const TempDir dir;
  CheckpointStore store(dir.path(), 2, true);
  for (const int step : {10, 20, 30, 40, 50}) store.save(training_state(step), step == 10 || step == 20);
  EXPECT_EQ(store.steps(), (Steps{20, 40, 50}));
  // The mark is part of the commit, so another process knows it too.
  CheckpointStore(dir.path(), 1, true).save(training_state(60), false);
  EXPECT_EQ(store.steps(), (Steps{20, 60}));
  CheckpointStore(dir.path(), 1, true).save(training_state(70), true);
  EXPECT_EQ(store.steps(), (Steps{70}));
  CheckpointStore(dir.path(), 1, false).save(training_state(80), false);
  EXPECT_EQ(store.steps(), (Steps{80}));
  EXPECT_THROW(CheckpointStore(dir.path(), 0, true), Error);
}

TEST(Checkpoint, SavingAStepAgainKeepsItAndItsMark) {
  const TempDir dir;
  CheckpointStore store(dir.path(), 1, true);
  store.save(training_state(5), true);
  TrainingState again = training_state(5);
  again.scalars["epoch"] = "changed";
  store.save(again, false);
  store.save(training_state(6), false);
  EXPECT_EQ(store.steps(), (Steps{5, 6}));
  EXPECT_EQ(CheckpointStore::load(dir / "checkpoints/step-000000005").scalars.at("epoch"), "changed");
}

TEST(Checkpoint, GoingBackDropsWhatIsNewer) {
  const TempDir dir;
  CheckpointStore store(dir.path(), 2, true);
  for (const int step : {1, 2, 3}) store.save(training_state(step), step == 3);
  spit(dir / "checkpoints/step-000000003/model.safetensors", "damaged");
  std::vector<std::string> refused;
  EXPECT_EQ(store.load_newest(&refused)->step, 2);
  ASSERT_EQ(refused.size(), 1u);
  store.save(training_state(2), false);
  EXPECT_EQ(store.steps(), (Steps{2}));
  store.save(training_state(3), false);
  refused.clear();
  EXPECT_TRUE(same_state(*store.load_newest(&refused), training_state(3)));
  EXPECT_TRUE(refused.empty());
}

TEST(Checkpoint, EveryFlippedBitIsRefusedByName) {
  const TempDir dir;
  CheckpointStore store(dir.path(), 2, false);
  store.save(training_state(1), false);
  store.save(training_state(2), false);
  for (const std::string name : {"model.safetensors", "optimizer.safetensors", "manifest.json"}) {
    const std::string path = dir / ("checkpoints/step-000000002/" + name), good = slurp(path);
    for (std::size_t bit = 0; bit < good.size() * 8; ++bit) {
      std::string bad = good;
      bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
      spit(path, bad);
      std::vector<std::string> refused;
      const auto loaded = store.load_newest(&refused);
      ASSERT_TRUE(loaded && same_state(*loaded, training_state(1))) << name << " bit " << bit;
      ASSERT_EQ(refused.size(), 1u) << name << " bit " << bit;
      ASSERT_NE(refused[0].find(path), std::string::npos) << refused[0];
    }
    spit(path, good);
  }
}

TEST(Checkpoint, EveryTruncationIsRefusedByName) {
  const TempDir dir;
  CheckpointStore store(dir.path(), 2, false);
  store.save(training_state(1), false);
  store.save(training_state(2), false);
  for (const std::string name : {"model.safetensors", "optimizer.safetensors", "manifest.json"}) {
    const std::string path = dir / ("checkpoints/step-000000002/" + name), good = slurp(path);
    std::vector<std::string> bad = {good + " "};
    for (std::size_t n = 0; n < good.size(); ++n) bad.push_back(good.substr(0, n));
    for (const std::string& text : bad) {
      spit(path, text);
      std::vector<std::string> refused;
      ASSERT_TRUE(same_state(store.load_newest(&refused).value(), training_state(1))) << name << " " << text.size();
      ASSERT_EQ(refused.size(), 1u);
      ASSERT_NE(refused[0].find(path), std::string::npos) << refused[0];
    }
    spit(path, good);
  }
}

TEST(Checkpoint, MissingFilesAreRefused) {
  const TempDir dir;
  CheckpointStore store(dir.path(), 2, false);
  store.save(training_state(1), false);
  store.save(training_state(2), false);
  fs::remove(dir / "checkpoints/step-000000002/optimizer.safetensors");
  std::vector<std::string> refused;
  EXPECT_EQ(store.load_newest(&refused)->step, 1);
  ASSERT_EQ(refused.size(), 1u);
  EXPECT_NE(refused[0].find("optimizer.safetensors: No such file"), std::string::npos) << refused[0];
}

TEST(Checkpoint, ARenamedFolderIsRefused) {
  const TempDir dir;
  CheckpointStore store(dir.path(), 2, false);
  store.save(training_state(1), false);
  fs::rename(dir / "checkpoints/step-000000001", dir / "checkpoints/step-000000009");
  std::vector<std::string> refused;
  EXPECT_FALSE(store.load_newest(&refused));
  ASSERT_EQ(refused.size(), 1u);
  EXPECT_NE(refused[0].find("written for step 1"), std::string::npos) << refused[0];
}

TEST(Checkpoint, ForgedManifestsAreRefused) {
  const TempDir dir;
  CheckpointStore store(dir.path(), 2, false);
  store.save(training_state(1), false);
  const std::string path = dir / "checkpoints/step-000000001/manifest.json";
  Manifest manifest = Manifest::parse(slurp(path), path);
  EXPECT_EQ(manifest.text(), slurp(path));
  manifest.files["../../../secret"] = manifest.files.begin()->second;
  spit(path, manifest.text());
  std::vector<std::string> refused;
  EXPECT_FALSE(store.load_newest(&refused));
  EXPECT_NE(refused.at(0).find("lists other files"), std::string::npos);
}

TEST(Checkpoint, AManifestsNumbersAreWhole) {
  const std::string opening = "{\n  \"sha256\": \"";
  for (const char* numbers :
       {R"("step": 1e300, "best": false, "files": {})", R"("step": -1.5, "best": false, "files": {})",
        R"("step": 1, "best": false, "files": {"a": {"bytes": -1, "sha256": ""}})",
        R"("step": 1, "best": false, "files": {"a": {"bytes": 1e300, "sha256": ""}})"}) {
    const std::string body =
        fmt::format(R"(", "format": "syncbn-checkpoint", "version": 1, {}, "scalars": {{}}}})", numbers);
    try {
      Manifest::parse(opening + sha256(std::as_bytes(std::span(body))) + body, "manifest.json");
      ADD_FAILURE() << numbers;
    } catch (const Error& e) {
      EXPECT_EQ(std::string(e.what()).rfind("manifest.json: malformed: ", 0), 0u) << e.what();
    }
  }
}

TEST(Checkpoint, TheLastOneIsReadWhileTheRunReplacesIt) {
  const TempDir dir;
  CheckpointStore store(dir.path(), 1, false);
  store.save(training_state(1), false);
  std::atomic<bool> ended = false;
  std::thread run([&] {
    for (int step = 2; step <= 100; ++step) store.save(training_state(step), false);
    ended = true;
  });
  try {
    for (std::int64_t last = 0; !ended;) {
      const std::int64_t step = CheckpointStore::load(dir / "last").step;
      EXPECT_GE(step, last);
      last = step;
    }
  } catch (const Error& e) {
    ADD_FAILURE() << e.what();
  }
  run.join();
}

TEST(Checkpoint, LoadsWhatTheUserNames) {
  const TempDir dir;
  CheckpointStore store(dir.path(), 1, false);
  store.save(training_state(4), false);
  const std::string folder = dir / "checkpoints/step-000000004";
  EXPECT_TRUE(same_state(CheckpointStore::load(folder), training_state(4)));
  EXPECT_EQ(CheckpointStore::load(folder + "/model.safetensors").model.serialize(),
            training_state(4).model.serialize());
  const auto message = [](const std::string& path) -> std::string {
    try {
      CheckpointStore::load(path);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::bad_data);
      return e.what();
    }
    return "no error";
  };
  EXPECT_EQ(message(dir / "absent.safetensors"),
            (dir / "absent.safetensors") +
                ": No such file or directory: name the folder of a run that has ended, a "
                "checkpoint in it, or a .safetensors file");
  EXPECT_NE(message(dir.path()).find("training has not ended; take its newest checkpoint as weights: " + folder),
            std::string::npos);
  EXPECT_NE(message(dir / "checkpoints").find("holds no weights: name the folder of a run"), std::string::npos);
  EXPECT_NE(message("/dev/null").find("not a regular file"), std::string::npos);
  spit(dir / "bad.safetensors", "0123456789");
  EXPECT_NE(message(dir / "bad.safetensors").find("bad.safetensors: "), std::string::npos);
}

TEST(Checkpoint, TheBestAndTheLastHaveNames) {
  const TempDir dir;
  const auto resolve = [](const std::string& path) -> std::string {
    try {
      return CheckpointStore::resolve(path);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::bad_data);
      return e.what();
    }
  };
  EXPECT_EQ(resolve(dir / "best"), dir / "best");  // there is no run
  CheckpointStore store(dir.path(), 3, true);
  store.save(training_state(4), false);
  EXPECT_NE(resolve(dir / "best").find("has no checkpoint that is marked as the best"), std::string::npos);
  store.save(training_state(5), true);
  store.save(training_state(6), false);
  EXPECT_EQ(resolve(dir / "best"), dir / "checkpoints/step-000000005");
  EXPECT_EQ(resolve(dir / "last"), dir / "checkpoints/step-000000006");
  EXPECT_EQ(resolve(dir / "worst"), dir / "worst");
  EXPECT_TRUE(same_state(CheckpointStore::load(dir / "best"), training_state(5)));
  spit(dir / "best", "somebody's own");
  EXPECT_EQ(resolve(dir / "best"), dir / "best");
  for (const int step : {4, 5, 6}) fs::remove_all(store.folder_of(step));
  EXPECT_NE(resolve(dir / "last").find("has no checkpoint yet"), std::string::npos);
}

TEST(Checkpoint, SparesWhatOthersPutThere) {
  const TempDir dir;
  CheckpointStore store(dir.path(), 1, false);
  store.save(training_state(1), false);
  spit(dir / "checkpoints/step-000000001/notes.txt", "mine");
  spit(dir / "checkpoints/readme", "mine");
  store.save(training_state(2), false);
  EXPECT_EQ(store.steps(), (Steps{2}));
  EXPECT_EQ(slurp(dir / "checkpoints/step-000000001/notes.txt"), "mine");
  EXPECT_EQ(slurp(dir / "checkpoints/readme"), "mine");
}

// FIPS 180-2, appendix B.
TEST(Checkpoint, HashesAreSha256) {
  const std::string abc = "abc";
  EXPECT_EQ(sha256(std::as_bytes(std::span(abc))), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

}  // namespace
}  // namespace syncbn
