// What a run keeps and says: its checkpoints by name, its metrics at a resume, warnings at its start.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "cli/program.hpp"
#include "cli/tiny.hpp"

namespace syncbn::test {
namespace {

TEST(CliRun, ItsBestAndItsLastCheckpointHaveNames) {
  const Sandbox s;
  s.write("tiny.yaml", kTiny);
  ASSERT_EQ(s.syncbn({"train", "tiny.yaml", "optimizer.lr=0.05"}).code, 0);
  std::string best;
  for (const auto& folder : std::filesystem::directory_iterator(s.file("runs/tiny/checkpoints"))) {
    std::ifstream manifest(folder.path() / "manifest.json");
    const std::string text{std::istreambuf_iterator<char>(manifest), {}};
    const std::string path = "runs/tiny/checkpoints/" + folder.path().filename().string();
    if (contains(text, "\"best\": true")) best = std::max(best, path);
  }
  ASSERT_NE(best, "");
  const auto eval = [&](const std::string& weights) {
    return s.mpirun(2, {"eval", "runs/tiny", "--weights", weights});
  };
  const Outcome named = eval("best");
  EXPECT_EQ(named.code, 0) << named.err;
  EXPECT_EQ(named.out, eval(best).out);
  EXPECT_EQ(eval("last").out, s.syncbn({"eval", "runs/tiny"}).out);
  EXPECT_EQ(
      s.syncbn({"train", "tiny.yaml", "--output", "second", "train.steps=1", "model.weights=runs/tiny/best"}).code, 0);
  std::filesystem::remove_all(s.file("runs/tiny/checkpoints"));
  std::filesystem::create_directory(s.file("runs/tiny/checkpoints"));
  const Outcome none = eval("best");
  EXPECT_EQ(none.code, 65);
  EXPECT_TRUE(contains(none.err, "runs/tiny has no checkpoint yet")) << none.err;
}

TEST(CliRun, ACheckpointOfAnotherExperimentIsRefused) {
  const Sandbox s;
  s.write("tiny.yaml", kTiny);
  const auto train = [&](const std::string& dir, const std::vector<std::string>& more) {
    std::vector<std::string> words = {"train", "tiny.yaml", "output.dir=" + dir, "train.eval_every=0"};
    words.insert(words.end(), more.begin(), more.end());
    return s.syncbn(words);
  };
  const std::string newest = "/checkpoints/step-000000018";
  ASSERT_EQ(train("one", {"threads=1"}).code, 0);
  ASSERT_EQ(train("other", {"optimizer.lr=0.03"}).code, 0);
  // What only concerns how it runs may differ.
  EXPECT_EQ(train("one", {"threads=2", "checkpoint.keep=3", "--resume"}).code, 0);
  std::filesystem::rename(s.file("one" + newest), s.file("kept"));
  std::filesystem::rename(s.file("other" + newest), s.file("one" + newest));
  const Outcome refused = train("one", {"--resume"});
  EXPECT_EQ(refused.code, 65) << refused.err;
  EXPECT_TRUE(contains(refused.err, "one" + newest + " was made by another experiment than one: ")) << refused.err;
  std::filesystem::remove_all(s.file("one" + newest));
  std::filesystem::rename(s.file("kept"), s.file("one" + newest));
  EXPECT_EQ(train("one", {"--resume"}).code, 0);
}

TEST(CliRun, AResumeSaysWhatIsLostOfTheMetrics) {
  const Sandbox s;
  s.write("tiny.yaml", kTiny);
  const auto resume = [&](const std::string& log_every) {
    return s.syncbn({"train", "tiny.yaml", "--resume", "train.eval_every=0", "checkpoint.every=15", log_every});
  };
  ASSERT_EQ(resume("train.log_every=4").code, 0);
  // As after a crash behind step 15, which is no step of a line.
  std::filesystem::remove_all(s.file("runs/tiny/checkpoints/step-000000018"));
  const std::string metrics = s.read("runs/tiny/metrics.jsonl");
  for (const char* log_every : {"train.log_every=4", "train.log_every=1"}) {
    s.write("runs/tiny/metrics.jsonl", metrics);
    const Outcome whole = resume(log_every);
    ASSERT_EQ(whole.code, 0) << whole.err;
    EXPECT_TRUE(contains(whole.err, "resumed at step 15 of 18\n")) << whole.err;
    EXPECT_FALSE(contains(whole.err, "lost")) << whole.err;
    std::filesystem::remove_all(s.file("runs/tiny/checkpoints/step-000000018"));
  }
  s.write("runs/tiny/metrics.jsonl", metrics.substr(0, metrics.find('\n') + 1));
  const Outcome shorter = resume("train.log_every=4");
  EXPECT_TRUE(contains(shorter.err,
                       "runs/tiny/metrics.jsonl ends at step 4: what it said of steps 5 to 12 is lost; it "
                       "goes on from there\n"))
      << shorter.err;
  std::filesystem::remove_all(s.file("runs/tiny/checkpoints/step-000000018"));
  std::filesystem::remove(s.file("runs/tiny/metrics.jsonl"));
  resume("train.log_every=4");
  const std::string missing = "runs/tiny/metrics.jsonl is missing or empty: what it said of steps 1 to 12 is lost";
  EXPECT_TRUE(contains(s.read("runs/tiny/log.txt"), missing)) << s.read("runs/tiny/log.txt");
}

TEST(CliRun, APipeInPlaceOfItsLogDoesNotHoldItUp) {
  const Sandbox s;
  s.write("tiny.yaml", kTiny);
  ASSERT_EQ(s.syncbn({"train", "tiny.yaml"}).code, 0);
  const std::string log = s.file("runs/tiny/log.txt");
  for (const bool read : {false, true}) {
    std::filesystem::remove(log);
    ASSERT_EQ(::mkfifo(log.c_str(), 0600), 0);
    const int reader = read ? ::open(log.c_str(), O_RDONLY | O_NONBLOCK) : -1;
    const Outcome o = s.syncbn({"train", "tiny.yaml", "--resume"});
    EXPECT_EQ(o.code, 0) << o.err;
    EXPECT_TRUE(contains(o.err, "syncbn: going on without the log: ")) << o.err;
    EXPECT_TRUE(contains(o.err, "runs/tiny/log.txt")) << o.err;
    if (read) ::close(reader);
  }
}

TEST(CliRun, WarnsOfAScheduleThatGoesOnBehindTheEnd) {
  const Sandbox s;
  s.write("tiny.yaml", kTiny);
  const std::string late = "schedule.milestones: 40 is never reached: the training ends after 18 steps, 2 epochs\n";
  const Outcome o = s.mpirun(2, {"train", "tiny.yaml", "schedule.name=step", "schedule.milestones=[6, 40]"});
  EXPECT_EQ(o.code, 0) << o.err;
  EXPECT_TRUE(contains(o.err, "warning: " + late)) << o.err;
  EXPECT_TRUE(contains(s.read("runs/tiny/log.txt"), late)) << s.read("runs/tiny/log.txt");
  const Outcome explained = s.syncbn({"explain", "tiny.yaml", "schedule.name=step", "schedule.milestones=[6, 40]"});
  EXPECT_TRUE(contains(explained.out, "warning                " + late)) << explained.out;
}

TEST(CliRun, TakesWeightsUnderTheNamesOfPyTorchsWrappersAndSaysSo) {
  const Sandbox s;
  s.write("tiny.yaml", kTiny);
  ASSERT_EQ(s.syncbn({"train", "tiny.yaml", "train.steps=2"}).code, 0);
  std::string file = s.read("runs/tiny/final.safetensors"), header = file.substr(8, file.find("}}") + 2 - 8);
  const std::string tensors =
      file.substr(8 + static_cast<unsigned char>(file[0]) + 256 * static_cast<unsigned char>(file[1]));
  for (std::size_t at = 0; (at = header.find("\":{\"dtype\"", at)) != std::string::npos; at += 10)
    header.insert(header.rfind('"', at - 1) + 1, "module.");
  std::string length(8, '\0');
  for (int i = 0; i < 2; ++i) length[i] = static_cast<char>(header.size() >> 8 * i);
  s.write("ddp.safetensors", length + header + tensors);
  const std::string said = "the names of all tensors in ddp.safetensors start with 'module.': read without it\n";
  const Outcome eval = s.mpirun(2, {"eval", "runs/tiny", "--weights", "ddp.safetensors"});
  EXPECT_EQ(eval.out, s.syncbn({"eval", "runs/tiny"}).out);
  EXPECT_EQ(eval.err, "syncbn: " + said);
  const Outcome train = s.syncbn({"train", "tiny.yaml", "--output", "second", "model.weights=ddp.safetensors"});
  EXPECT_EQ(train.code, 0);
  EXPECT_TRUE(contains(train.err, said)) << train.err;
  EXPECT_TRUE(contains(s.read("second/log.txt"), said)) << s.read("second/log.txt");
}

TEST(CliRun, AnImageFolderIsFoundFromElsewhereAndNamesItsClasses) {
  const Sandbox s;
  for (const char* folder : {"g/train/bee", "g/train/ant", "g/val/ant", "below"})
    std::filesystem::create_directories(s.file(folder));
  for (const char* file : {"g/train/bee/1.png", "g/train/ant/1.png", "g/train/ant/2.png", "g/val/ant/1.png"})
    s.write(file, pixel());
  s.write("own.yaml",
          "{workers: 2, batch_per_worker: 2, model: {name: resnet8}, train: {epochs: 1}, "
          "data: {kind: image-folder, path: g, image_size: 8}}");
  const Outcome o = s.syncbn({"train", "own.yaml"});
  ASSERT_EQ(o.code, 0) << o.err;
  EXPECT_TRUE(contains(o.err, "3 training and 1 test images, 2 classes\n")) << o.err;
  const std::string summary = s.read("runs/own/summary.json");
  EXPECT_LT(summary.find("\"ant\""), summary.find("\"bee\"")) << summary;
  EXPECT_TRUE(contains(summary, "\"classes\": [")) << summary;
  EXPECT_TRUE(contains(s.read("runs/own/config.yaml"), "path: " + s.file("g").string()))
      << s.read("runs/own/config.yaml");
  const Outcome resumed = s.syncbn({"train", "own.yaml", "data.path=g/", "--resume"});
  EXPECT_EQ(resumed.code, 0) << resumed.err;
  s.write("below.sh", R"(cd below && "$1" eval ../runs/own && "$1" train ../runs/own --resume)");
  const Outcome below = s.shell("below.sh");
  EXPECT_EQ(below.code, 0) << below.err;
  EXPECT_TRUE(contains(below.out, "run                 ../runs/own\n")) << below.out;
}

// Of the same number, other classes would be taken for those of the training.
TEST(CliRun, ClassesAreKnownByTheirNames) {
  const Sandbox s;
  const auto put = [&](const std::string& folder, const std::string& file) {
    std::filesystem::create_directories(s.file(folder));
    s.write(folder + "/" + file, pixel());
  };
  for (const char* folder : {"g/train/ant", "g/train/bee", "g/val/bee", "other/train/ant", "other/train/wasp",
                             "other/val/wasp", "test/val/bee"})
    put(folder, "1.png");
  s.write("g/train/ant/2.webp", "");
  s.write("own.yaml",
          "{workers: 2, batch_per_worker: 1, model: {name: resnet8}, train: {epochs: 1}, "
          "data: {kind: image-folder, path: g, image_size: 8}}");
  const Outcome o = s.syncbn({"train", "own.yaml"});
  ASSERT_EQ(o.code, 0) << o.err;
  EXPECT_TRUE(contains(o.err, "warning: 1 of the classes without a test image (the first: ant)\n")) << o.err;
  EXPECT_TRUE(contains(o.err, "being neither JPEG nor PNG: 1 picture (the first: ant/2.webp)\n")) << o.err;

  const Outcome plain = s.syncbn({"eval", "runs/own"}), alone = s.mpirun(2, {"eval", "runs/own", "data.path=test"});
  EXPECT_EQ(alone.code, 0) << alone.err;  // it needs no training images
  EXPECT_EQ(alone.out, plain.out);
  const Outcome last = s.syncbn({"eval", "runs/own", "data.path=test", "--weights", "last"});
  EXPECT_EQ(last.out, plain.out) << last.err;
  const Outcome renamed = s.syncbn({"eval", "runs/own", "data.path=other"});
  EXPECT_EQ(renamed.code, 65);
  EXPECT_TRUE(contains(renamed.err, "other/val/wasp: the weights know no class of this name, but ant, bee; name"))
      << renamed.err;
  std::vector<std::string> start = {"train", "own.yaml", "output.dir=new", "data.path=other", "model.weights=runs/own"};
  const Outcome refused = s.syncbn(start);
  EXPECT_EQ(refused.code, 65);
  EXPECT_TRUE(contains(refused.err, "output 1 is 'bee' there and 'wasp' here; leave out the classifier: "))
      << refused.err;
  start.emplace_back("model.weights_except=[fc.*]");
  const Outcome taken = s.syncbn(start);
  EXPECT_EQ(taken.code, 0) << taken.err;
}

TEST(CliRun, GoesOnByItsFolderAlone) {
  const Sandbox s;
  s.write("tiny.yaml", kTiny);
  ASSERT_EQ(s.syncbn({"train", "tiny.yaml", "train.steps=20", "norm.group=1", "checkpoint.every=8"}).code, 0);
  std::filesystem::rename(s.file("runs/tiny"), s.file("moved"));
  const std::string weights = s.read("moved/final.safetensors");
  std::filesystem::remove_all(s.file("moved/checkpoints/step-000000020"));
  std::filesystem::remove(s.file("moved/final.safetensors"));
  const Outcome o = s.mpirun(2, {"train", "moved", "--resume"});
  ASSERT_EQ(o.code, 0) << o.err;
  EXPECT_TRUE(contains(o.err, "resumed at step ")) << o.err;
  EXPECT_EQ(s.read("moved/final.safetensors"), weights);
  EXPECT_FALSE(std::filesystem::exists(s.file("runs/tiny")));
  const Outcome unread = s.syncbn({"train", "moved", "--resume", "norm.groups=2"});
  EXPECT_EQ(unread.code, 2);
  EXPECT_TRUE(contains(unread.err, "norm.groups: only read with")) << unread.err;
}

TEST(CliRun, ASingleUpdateHasNoRate) {
  const Sandbox s;
  s.write("tiny.yaml", kTiny);
  const Outcome o = s.syncbn({"train", "tiny.yaml", "train.steps=1"});
  ASSERT_EQ(o.code, 0) << o.err;
  EXPECT_FALSE(contains(o.out, "images_per_second")) << o.out;
  EXPECT_TRUE(contains(s.read("runs/tiny/summary.json"), "\"images_per_second\": null"));
}

TEST(CliRun, ALastUpdateThatDivergesIsNoResult) {
  const Sandbox s;
  s.write("tiny.yaml", kTiny);
  const Outcome o = s.mpirun(2, {"train", "tiny.yaml", "train.steps=1", "optimizer.lr=1e30", "schedule.name=constant"});
  EXPECT_EQ(o.code, 1) << o.err;
  EXPECT_TRUE(contains(o.err, "the loss of the final evaluation is not a finite number")) << o.err;
  EXPECT_FALSE(contains(o.out + o.err, "nan")) << o.out << o.err;
  EXPECT_FALSE(std::filesystem::exists(s.file("runs/tiny/summary.json")));
}

TEST(CliRun, ThereIsABestEvenIfNothingIsRight) {
  const Sandbox s;
  s.write("tiny.yaml", kTiny);
  const Outcome o = s.syncbn({"train", "tiny.yaml", "data.test_limit=1", "optimizer.lr=0"});
  ASSERT_EQ(o.code, 0) << o.err;
  ASSERT_TRUE(contains(o.out, "best_test_accuracy  0.0000")) << o.out;
  EXPECT_EQ(s.syncbn({"eval", "runs/tiny", "--weights", "best"}).code, 0);
}

}  // namespace
}  // namespace syncbn::test
