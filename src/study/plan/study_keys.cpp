#include "study/plan/plan.hpp"

namespace syncbn {

const std::vector<KeyHelp>& study_file_keys() {
  static const std::vector<KeyHelp> keys = {
      {"base", "", "needed; configuration that all trials start from: a file, or the name of a shipped one"},
      {"title", "", "one line above tables and report; default: the name of the file"},
      {"set", "", "keys of the configuration, nested as there, for all trials"},
      {"vary", "", "a block of grid, zip and list, or a list of blocks; every combination of their values is a point"},
      {"vary.grid", "", "{norm.group: [1, all], workers: [4, 8]}: each key varies by itself"},
      {"vary.zip", "", "{workers: [4, 8], batch_per_worker: [8, 4]}: the keys vary together"},
      {"vary.list", "",
       "[{label: local, norm.group: 1}, ...]: alternatives, each with keys of its own; a label is not "
       "needed"},
      {"seeds", "1", "every point is trained with each: N for 1 to N, or [a, b, ...]"},
      {"repeat", "", "more seeds for points that need them; both of:"},
      {"repeat.until_interval_below", "", "until half of a point's 95 % interval is below this, in points of error"},
      {"repeat.max_seeds", "", "or the point has so many seeds"},
      {"learning_rate.rule", "", "optimizer.lr_scaling for all trials: none, linear, sqrt"},
      {"learning_rate.reference_batch", "", "optimizer.lr_reference_batch for all trials"},
      {"learning_rate.search", "",
       "[0.5, 1, 2]: each point is first trained once with each of these multiples of its "
       "learning rate, and keeps the one of the lowest error on the test images"},
      {"learning_rate.search_seed", "", "of these trainings; default: the smallest number that is none of the seeds"}};
  return keys;
}

std::vector<std::string> keys_below(const std::string& prefix) {
  std::vector<std::string> names;
  for (const KeyHelp& key : study_file_keys()) {
    if (!key.key.starts_with(prefix)) continue;
    const std::string rest = key.key.substr(prefix.size());
    names.push_back(rest.substr(0, rest.find('.')));
  }
  return names;
}

}  // namespace syncbn
