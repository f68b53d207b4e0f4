// What a run keeps and says: its checkpoints by name, its metrics at a resume, warnings at its start.

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace syncbn::test
