#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "study/study.hpp"

namespace syncbn {

/// One training of a study.
struct Trial {
  int point = 0;
  std::uint64_t seed = 0;
  double lr_factor = 1;
  bool search = false;  ///< only there to choose the learning rate of its point
  std::string hash;     ///< of its experiment: trials of one hash are one training
};

Config config_of(const Point& point, const Trial& trial);

/// The configuration of a trial's run in `folder`: what does not change its result is the study's to choose.
Config run_config(Config config, const std::string& folder, int threads);
/// The keys that run_config() sets.
const std::vector<std::string>& study_keys();

/// Of study_file_keys(), what follows the prefix ("" or "vary."), up to the next dot.
std::vector<std::string> keys_below(const std::string& prefix);

/// Rough seconds of a training on one core: arithmetic, a fixed price for every layer of every batch, and evaluations.
double estimate_seconds(const Config& config, const Explanation& sizes);

/// Decides which trials a study needs, from nothing but the results so far: the same list whatever the order in which
/// trials end.
class Planner {
 public:
  /// Error in percent; NaN for a trial that ended without one; nothing while it has not ended.
  using ErrorOf = std::function<std::optional<double>(const Trial&)>;

  Planner(const Study& study, const std::vector<Point>& points) : study_(study), points_(points) {}

  /// All trials that are needed as far as is known now, point by point; grows while trials end.
  std::vector<Trial> trials(const ErrorOf& error_of);

 private:
  Trial make(int point, std::uint64_t seed, double lr_factor, bool search);
  void add_point(int point, const ErrorOf& error_of, std::vector<Trial>& out);

  const Study& study_;
  const std::vector<Point>& points_;
  std::map<std::tuple<int, std::uint64_t, double>, std::string> hashes_;
};

}  // namespace syncbn
