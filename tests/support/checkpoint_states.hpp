#pragma once

#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "train/storage/checkpoint.hpp"

namespace syncbn {

/// A small state in which everything depends on the step and on `variant`.
inline TrainingState training_state(std::int64_t step, float variant = 0) {
  const auto s = static_cast<float>(step);
  TrainingState state;
  state.step = step;
  state.model.metadata = {{"format", "pt"}};
  state.model.put_f32("conv1.weight", {2, 3}, std::vector<float>{s, 1, 2, 3, 4, variant});
  state.model.put_i64("bn1.num_batches_tracked", step);
  state.optimizer.put_f32("optimizer.momentum.conv1.weight", {2, 3}, std::vector<float>{-s, 1, 2, 3, 4, variant});
  state.scalars = {{"epoch", std::to_string(step / 2)}, {"best", "0x1.8p-1"}, {"note", "\"quoted\"\n"}};
  return state;
}

inline bool same_state(const TrainingState& a, const TrainingState& b) {
  return a.step == b.step && a.scalars == b.scalars && a.model.serialize() == b.model.serialize() &&
         a.optimizer.serialize() == b.optimizer.serialize();
}

/// Every path below a folder, relative to it.
inline std::set<std::string> tree_of(const std::string& path) {
  std::set<std::string> result;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(path)) {
    result.insert(std::filesystem::relative(entry.path(), path).string());
  }
  return result;
}

/// What a store that holds exactly these committed steps looks like.
inline std::set<std::string> clean_tree(const std::vector<std::int64_t>& steps) {
  std::set<std::string> result = {"checkpoints"};
  for (const std::int64_t step : steps) {
    std::string digits = std::to_string(step);
    digits.insert(0, 9 - digits.size(), '0');
    const std::string folder = "checkpoints/step-" + digits;
    result.insert(
        {folder, folder + "/manifest.json", folder + "/model.safetensors", folder + "/optimizer.safetensors"});
  }
  return result;
}

}  // namespace syncbn
