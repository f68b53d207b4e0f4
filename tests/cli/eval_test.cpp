// Predictions of `syncbn eval`, and the top-5 accuracy.

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <sstream>

#include "cli/program.hpp"
#include "cli/tiny.hpp"

namespace syncbn::test {
namespace {

std::vector<std::vector<std::string>> table(const std::string& csv) {
  std::vector<std::vector<std::string>> rows;
  std::istringstream lines(csv);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream cells(line);
    rows.emplace_back();
    for (std::string cell; std::getline(cells, cell, ',');) rows.back().push_back(cell);
  }
  return rows;
}

/// The number behind the first NAME of a text.
double number(const std::string& text, const std::string& name) {
  const std::size_t at = text.find(name);
  if (at == std::string::npos) ADD_FAILURE() << name << " is missing in " << text;
  return at == std::string::npos ? -1 : std::stod(text.substr(at + name.size()));
}

TEST(CliEval, PredictionsAreTheSameOnAnyNumberOfRanks) {
  const Sandbox s;
  s.write("tiny.yaml", kTiny);
  const std::string statistics = "train.eval_statistics=[precise, running, batch]";
  ASSERT_EQ(s.syncbn({"train", "tiny.yaml", statistics}).code, 0);
  const Outcome alone = s.syncbn({"eval", "runs/tiny", "--predictions", "alone.csv"});
  ASSERT_EQ(alone.code, 0) << alone.err;
  const std::string csv = s.read("alone.csv");
  for (const int ranks : {1, 2, 3}) {
    const std::string file = std::to_string(ranks) + ".csv";
    const Outcome o = s.mpirun(ranks, {"eval", "runs/tiny", "--predictions", file});
    EXPECT_EQ(o.out, alone.out) << o.err;
    EXPECT_EQ(s.read(file), csv) << ranks << " ranks";
  }
  EXPECT_EQ(s.syncbn({"eval", "runs/tiny"}).out, alone.out);

  // 17, 17 and 16 images a worker.
  const auto rows = table(csv);
  ASSERT_EQ(rows.size(), 51U);
  EXPECT_EQ(rows[0], (std::vector<std::string>{"index", "label", "prediction", "probability", "label_probability",
                                               "label_rank"}));
  int correct = 0, in_top5 = 0;
  for (std::size_t i = 1; i < rows.size(); ++i) {
    ASSERT_EQ(rows[i].size(), 6U) << i;
    EXPECT_EQ(rows[i][0], std::to_string(i - 1));
    EXPECT_EQ(rows[i][1], std::to_string((i - 1) % 10));
    correct += rows[i][1] == rows[i][2];
    in_top5 += std::stoi(rows[i][5]) <= 5;
    EXPECT_EQ(rows[i][1] == rows[i][2], rows[i][5] == "1") << i;
  }
  EXPECT_EQ(alone.out.rfind("precise statistics\n", 0), 0U) << alone.out;  // the first ones
  EXPECT_EQ(number(alone.out, "correct"), correct);
  EXPECT_DOUBLE_EQ(number(alone.out, "top-5"), in_top5 / 50.0);

  // By others.
  const Outcome running =
      s.syncbn({"eval", "runs/tiny", "train.eval_statistics=[running]", "--predictions", "running.csv"});
  EXPECT_EQ(running.code, 0) << running.err;
  EXPECT_NE(s.read("running.csv"), csv);
}

TEST(CliEval, WorkersWithoutImagesPredictNothing) {
  const Sandbox s;
  s.write("tiny.yaml", kTiny);
  ASSERT_EQ(s.syncbn({"train", "tiny.yaml", "workers=5"}).code, 0);
  ASSERT_EQ(s.syncbn({"eval", "runs/tiny", "--predictions", "all.csv"}).code, 0);
  const std::string all = s.read("all.csv");
  for (const int images : {1, 3}) {
    const Outcome o =
        s.mpirun(2, {"eval", "runs/tiny", "data.test_limit=" + std::to_string(images), "--predictions", "some.csv"});
    EXPECT_EQ(o.code, 0) << o.err;
    const std::string some = s.read("some.csv");
    EXPECT_EQ(std::count(some.begin(), some.end(), '\n'), images + 1);
    EXPECT_EQ(all.substr(0, some.size()), some);
  }
}

TEST(CliEval, PredictionsOfPicturesNameFilesAndClasses) {
  const Sandbox s;
  for (const char* folder : {"g/train/ant", "g/train/bee, \"wild\"", "g/val/bee, \"wild\"", "g/val/ant"}) {
    std::filesystem::create_directories(s.file(folder));
    s.write(std::string(folder) + "/1.png", pixel());
  }
  s.write("g/val/ant/2.png", pixel());
  s.write("own.yaml",
          "{workers: 2, batch_per_worker: 1, model: {name: resnet8}, train: {epochs: 1}, "
          "data: {kind: image-folder, path: g, image_size: 8}}");
  ASSERT_EQ(s.syncbn({"train", "own.yaml"}).code, 0);
  const Outcome o = s.syncbn({"eval", "runs/own", "--predictions", "p.csv"});
  ASSERT_EQ(o.code, 0) << o.err;
  EXPECT_FALSE(contains(o.out, "top-5")) << o.out;  // of two classes
  EXPECT_FALSE(contains(s.read("runs/own/summary.json"), "top5"));
  const std::string csv = s.read("p.csv");
  EXPECT_EQ(csv.rfind("index,file,label,prediction,probability,label_probability,label_rank\n0,val/ant/1.png,ant,", 0),
            0U)
      << csv;
  EXPECT_TRUE(contains(csv, "\n1,\"val/bee, \"\"wild\"\"/1.png\",\"bee, \"\"wild\"\"\",")) << csv;
  EXPECT_TRUE(contains(csv, "\n2,val/ant/2.png,ant,")) << csv;
}

TEST(CliEval, AFileThatCannotBeWrittenIsKnownAtOnce) {
  const Sandbox s;
  s.write("tiny.yaml", kTiny);
  ASSERT_EQ(s.syncbn({"train", "tiny.yaml", "train.epochs=1"}).code, 0);
  const auto eval = [&](int ranks, const std::string& file) {
    // Were the images looked for first, they would be what is missing.
    return s.mpirun(ranks, {"eval", "runs/tiny", "--predictions", file, "data.kind=mnist", "data.path=nothing"});
  };
  for (const int ranks : {1, 2}) {
    const Outcome missing = eval(ranks, "missing/p.csv"), folder = eval(ranks, "runs");
    EXPECT_EQ(missing.code, 1);
    EXPECT_TRUE(
        contains(missing.err, "cannot create missing/p.csv: No such file or directory; create its folder, or choose "))
        << missing.err;
    EXPECT_EQ(folder.code, 2);
    EXPECT_TRUE(contains(folder.err, "runs is not a regular file; choose another name\n")) << folder.err;
  }
  const Outcome none = s.syncbn({"eval", "runs/tiny", "--predictions", ""});
  EXPECT_EQ(none.code, 2);
  EXPECT_EQ(none.err, "syncbn: --predictions: expected the name of a file (see syncbn eval --help)\n");
}

TEST(CliEval, TopFiveOfATrainingIsThatOfItsWeights) {
  const Sandbox s;
  s.write("tiny.yaml", kTiny);
  ASSERT_EQ(s.syncbn({"train", "tiny.yaml", "train.eval_statistics=[running, batch]"}).code, 0);
  const std::string summary = s.read("runs/tiny/summary.json"), metrics = s.read("runs/tiny/metrics.jsonl");
  const Outcome o = s.syncbn({"eval", "runs/tiny"});
  ASSERT_EQ(o.code, 0) << o.err;
  const double running = number(o.out, "top-5"), batch = number(o.out.substr(o.out.find("batch statistics")), "top-5");
  EXPECT_GT(running, number(o.out, "accuracy"));
  EXPECT_EQ(number(summary, "\"test_top5_accuracy\": "), running);
  EXPECT_EQ(number(summary, "\"test_top5_accuracy_batch\": "), batch);
  const std::string last = metrics.substr(metrics.rfind("\"kind\":\"eval\""));
  EXPECT_EQ(number(last, "\"top5_accuracy\":"), running);
  EXPECT_EQ(number(last, "\"top5_accuracy_batch\":"), batch);

  // After the last checkpoint nothing is evaluated again.
  std::filesystem::remove(s.file("runs/tiny/summary.json"));
  ASSERT_EQ(s.syncbn({"train", "tiny.yaml", "train.eval_statistics=[running, batch]", "--resume"}).code, 0);
  EXPECT_EQ(number(s.read("runs/tiny/summary.json"), "\"test_top5_accuracy_batch\": "), batch);
}

}  // namespace
}  // namespace syncbn::test
