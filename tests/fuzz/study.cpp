// A study file, then overrides, each behind a NUL byte; with few points, these, too.

#include "study/study.hpp"
#include "fuzz/target.hpp"

namespace syncbn::fuzz {

std::vector<std::string> seeds() {
  std::vector<std::string> all = {
      joined({"base: quickstart\nvary: {grid: {optimizer.lr: [0.1, 0.2]}}\n", "seeds=[1, 2]", "train.epochs=2"})};
  for (const ShippedConfig& shipped : shipped_studies()) all.push_back(shipped.text);
  return all;
}

void read(std::string_view input) {
  const auto [text, overrides] = text_and_overrides(input, 3);
  const Study study = parse_study(text, "a.yaml", overrides);
  std::size_t points = 1;
  for (const Dimension& d : study.dimensions) points *= d.values.size();
  if (points < 4) resolve(study);
}

}  // namespace syncbn::fuzz
