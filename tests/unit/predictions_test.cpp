#include "train/predictions.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <limits>

#include "nn/loss.hpp"
#include "support/temp_dir.hpp"
#include "syncbn/core/error.hpp"
#include "syncbn/core/random.hpp"
#include "train/storage/durable_file.hpp"

namespace syncbn {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TEST(Predictions, TheLabelsRankIsItsPlaceAmongAllClasses) {
  const std::vector<float> logits = {1, 4, -2, 4, 0};
  const std::vector<int> ranks = {3, 1, 5, 2, 4};  // of equal logits the first one's class comes first
  for (int label = 0; label < 5; ++label) EXPECT_EQ(label_rank(logits, label), ranks[label]) << label;
}

TEST(Predictions, WhatHasNoSoftmaxIsNoPrediction) {
  for (const std::vector<float>& logits : std::vector<std::vector<float>>{
           {0, kNan, 1}, {kNan, 0, 1}, {0, 1, kInfinity}, {-kInfinity, -kInfinity, -kInfinity}}) {
    for (int label = 0; label < 3; ++label) {
      const Prediction p = predict(logits, label);
      EXPECT_EQ(p.label_rank, 0);
      EXPECT_EQ(p.predicted, -1);
      EXPECT_TRUE(std::isnan(p.probability) && std::isnan(p.label_probability));
    }
  }
  const Prediction p = predict(std::vector<float>{-kInfinity, 3, -kInfinity}, 2);
  EXPECT_EQ(p.label_rank, 3);
  EXPECT_EQ(p.predicted, 1);
  EXPECT_EQ(p.probability, 1);
  EXPECT_EQ(p.label_probability, 0);
}

// Otherwise the counts that `eval` prints were not those of its table.
TEST(Predictions, AgreeWithTheLoss) {
  Random random(1, Purpose::probe, 2);
  for (int i = 0; i < 2000; ++i) {
    std::vector<float> logits(7);
    for (float& z : logits) z = static_cast<float>(random.below(9)) - 4;
    if (i % 5 == 0) logits[random.below(7)] = std::vector{kNan, kInfinity, -kInfinity}[random.below(3)];
    if (i % 11 == 0) logits.assign(7, -kInfinity);
    const std::vector<int> label = {static_cast<int>(random.below(7))};
    const LossResult loss = softmax_cross_entropy({logits.data(), {1, 7}}, label, 0, 0, {});
    const Prediction p = predict(logits, label[0]);
    EXPECT_EQ(p.label_rank == 1, loss.correct == 1) << i;
    EXPECT_EQ(p.predicted == label[0], loss.correct == 1) << i;
    if (std::isfinite(loss.loss_sum)) {
      EXPECT_NEAR(p.label_probability, std::exp(-loss.loss_sum), 1e-6) << i;
      EXPECT_GE(p.probability, p.label_probability) << i;
    }
  }
}

class NamedFiles : public ImageSource {
 public:
  explicit NamedFiles(bool named) : named_(named) {}
  Image image(std::int64_t) const override { return {0, 0, std::vector<std::uint8_t>{}}; }
  std::string file(std::int64_t i) const override { return named_ ? "val/a, b/" + std::to_string(i) + ".png" : ""; }
  std::uint64_t hash(std::int64_t, std::uint64_t seed) const override { return seed; }

 private:
  bool named_;
};

TEST(Predictions, BecomeATable) {
  const std::vector<Prediction> predictions = {{1, 2, 0.75F, 0.25F}, {}, {1, 1, 0.1F, 0.1F}};
  const Dataset named("set", 3, 0, 0, 2, {0, 0, 1}, std::make_shared<NamedFiles>(true), {"a, b", "the \"c\""});
  EXPECT_EQ(predictions_csv(named, predictions),
            "index,file,label,prediction,probability,label_probability,label_rank\n"
            "0,\"val/a, b/0.png\",\"a, b\",\"the \"\"c\"\"\",0.75,0.25,2\n"
            "1,\"val/a, b/1.png\",\"a, b\",,,,\n"
            "2,\"val/a, b/2.png\",\"the \"\"c\"\"\",\"the \"\"c\"\"\",0.1,0.1,1\n");
  const Dataset plain("set", 3, 0, 0, 2, {0, 0, 1}, std::make_shared<NamedFiles>(false));
  EXPECT_EQ(predictions_csv(plain, predictions),
            "index,label,prediction,probability,label_probability,label_rank\n"
            "0,0,1,0.75,0.25,2\n"
            "1,0,,,,\n"
            "2,1,1,0.1,0.1,1\n");
}

TEST(RequireWritable, LeavesNothingAndRefusesWhatCannotBeReplaced) {
  const TempDir dir;
  require_writable(dir / "new");
  EXPECT_TRUE(names_in(dir.path()).empty());
  spit(dir / "old", "text");
  require_writable(dir / "old");
  EXPECT_EQ(slurp(dir / "old"), "text");
  EXPECT_EQ(names_in(dir.path()).size(), 1U);
  std::filesystem::create_symlink("old", dir / "link");  // which a file would replace
  for (const std::string& path : {dir.path(), dir / "missing/file", dir / "link", std::string("/dev/null")})
    EXPECT_THROW(require_writable(path), Error) << path;
}

}  // namespace
}  // namespace syncbn
