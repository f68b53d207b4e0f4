#include "study/plan/plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <span>

#include "study/statistics.hpp"
#include "syncbn/core/error.hpp"
#include "train/config/check.hpp"
#include "train/config/value.hpp"
#include "train/storage/manifest.hpp"

namespace syncbn {
namespace {

constexpr std::size_t kHashLetters = 12;
constexpr std::int64_t kMaxPoints = 10'000;
constexpr std::size_t kLeastToStop = 3;  // two seeds can agree by chance

/// What differs between machines must not decide results, and a report compares errors on test images.
void require_comparable(const Config& config) {
  const auto refuse = [](const std::string& what) { throw Error(what, ExitCode::usage); };
  if (config.workers == 0) {
    refuse("workers: auto depends on the machine; a study needs a number, such as `set: {workers: 8}`");
  }
  if (config.norm.group == "node") refuse("norm.group: node depends on the machine; a study needs a number, or all");
  if (config.reduction == "native") refuse("reduction: native depends on the number of ranks; a study needs ordered");
  if (config.train.eval_split == "train") {
    refuse("train.eval_split: train gives no test error, which is what a study compares; a study needs test");
  }
}

std::string label_of(const Study& study, const std::vector<int>& values) {
  std::string label;
  for (std::size_t d = 0; d < values.size(); ++d) {
    const std::string& text = study.dimensions[d].values[values[d]].label;
    if (!text.empty()) label += (label.empty() ? "" : ", ") + text;
  }
  return label.empty() ? study.name : label;
}

std::int64_t estimate_memory(const Config& config, const Explanation& sizes) {
  constexpr std::int64_t kFloat = 4;
  const DataShape data = data_shape(config.data);
  // One byte per pixel value; pictures stay in their files.
  const std::int64_t images =
      config.data.kind == "image-folder" ? 0 : (data.train_images + data.test_images) * data.image.elements();
  return config.workers * (sizes.activation_bytes + kFloat * sizes.parameters) + sizes.weight_bytes + images;
}

/// Appends the keys to `unread` that are of no use to this point.
Point resolve_point(const Study& study, const std::vector<int>& values, std::vector<std::string>& unread) {
  Point point;
  point.values = values;
  point.label = label_of(study, values);
  std::vector<Setting> settings = study.settings;
  for (std::size_t d = 0; d < values.size(); ++d) {
    const auto& chosen = study.dimensions[d].values[values[d]].settings;
    settings.insert(settings.end(), chosen.begin(), chosen.end());
  }
  try {
    point.config = load_config(study.base, study.overrides, settings, &unread);
    require_comparable(point.config);
    point.config.seed = study.seeds.front();
    point.sizes = explain(point.config, 1);
    if (point.sizes.steps == 0) {
      throw Error(fmt::format("data.train_limit: one global batch of {} is more than the training images, with "
                              "data.drop_last",
                              point.sizes.global_batch),
                  ExitCode::usage);
    }
    if (!point.sizes.missing_variance.empty()) throw Error(point.sizes.missing_variance, ExitCode::usage);
  } catch (const Error& e) {
    throw Error(fmt::format("{} (study {}, trials '{}')", e.what(), study.name, point.label), e.code());
  }
  const Config& c = point.config;
  point.lr = scaled_learning_rate(c.lr, c.lr_scaling, point.sizes.global_batch, c.lr_reference_batch);
  const double most =
      study.lr_factors.empty() ? 1 : *std::max_element(study.lr_factors.begin(), study.lr_factors.end());
  if (!std::isfinite(point.lr * most)) {
    throw Error(fmt::format("optimizer.lr: {} is too large to be multiplied (study {}, trials '{}')", c.lr, study.name,
                            point.label),
                ExitCode::usage);
  }
  point.memory_bytes = estimate_memory(c, point.sizes);
  point.seconds = estimate_seconds(c, point.sizes);
  return point;
}

/// Variants may have keys that only some of them read. What none of them reads is a mistake.
void refuse_unread(const Study& study, const std::vector<Point>& points, const std::vector<std::string>& unread) {
  const std::set<std::string> somewhere(unread.begin(), unread.end());
  const auto check = [&](const std::string& key, const std::string& place) {
    const auto reads = [&](const Point& point) { return detail::is_read(key, point.config); };
    if (!somewhere.contains(key) || std::any_of(points.begin(), points.end(), reads)) return;
    detail::fail(fmt::format("{}: {}: {}", place, key, detail::why_unread(key, points.front().config)));
  };
  for (const Setting& s : study.settings) check(s.key, s.place);
  for (const Dimension& d : study.dimensions) {
    for (const Dimension::Value& value : d.values) {
      for (const Setting& s : value.settings) check(s.key, s.place);
    }
  }
  for (const std::string& text : study.overrides) check(text.substr(0, text.find('=')), "command line");
}

}  // namespace

std::vector<Point> resolve(const Study& study) {
  std::int64_t count = 1;
  for (const Dimension& d : study.dimensions) {
    count *= static_cast<std::int64_t>(d.values.size());
    if (count > kMaxPoints) {
      throw Error(fmt::format("study {}: more than {} points; vary less", study.name, kMaxPoints), ExitCode::usage);
    }
  }
  std::vector<Point> points;
  std::set<std::string> labels;
  std::vector<std::string> unread;
  std::vector<int> values(study.dimensions.size(), 0);
  for (std::int64_t i = 0; i < count; ++i) {
    std::int64_t rest = i;  // the last dimension changes fastest
    for (std::size_t d = values.size(); d-- > 0;) {
      const auto size = static_cast<std::int64_t>(study.dimensions[d].values.size());
      values[d] = static_cast<int>(rest % size);
      rest /= size;
    }
    points.push_back(resolve_point(study, values, unread));
    const std::string& label = points.back().label;
    if (labels.insert(label).second) continue;
    throw Error(
        fmt::format("study {}: two points are called '{}'; give their alternatives other labels", study.name, label),
        ExitCode::usage);
  }
  refuse_unread(study, points, unread);
  return points;
}

Config config_of(const Point& point, const Trial& trial) {
  Config config = point.config;
  config.seed = trial.seed;
  config.lr *= trial.lr_factor;
  return config;
}

Config run_config(Config config, const std::string& folder, int threads) {
  config.output.dir = folder;
  config.output.tensorboard = true;
  config.threads = threads;
  config.checkpoint.keep = 1;
  config.checkpoint.keep_best = false;
  return config;
}

const std::vector<std::string>& study_keys() {
  static const std::vector<std::string> keys = {"output.dir", "output.tensorboard", "threads", "checkpoint.keep",
                                                "checkpoint.keep_best"};
  return keys;
}

double estimate_seconds(const Config& config, const Explanation& sizes) {
  constexpr double kMultiplyAddsPerSecond = 3e10;
  constexpr double kSecondsPerLayer = 5e-6;      // per worker and batch, forward and backward
  constexpr double kSecondsPerParameter = 2e-9;  // per update
  constexpr double kForwardAndBackward = 3;
  const DataShape data = data_shape(config.data);
  const double steps = static_cast<double>(sizes.steps), macs = static_cast<double>(sizes.multiply_adds);
  const double batches = steps * static_cast<double>(config.train.accumulate * config.workers);
  const double samples = steps * static_cast<double>(sizes.global_batch);
  const double epochs =
      steps * static_cast<double>(config.train.accumulate) / static_cast<double>(sizes.batches_per_epoch);
  const std::string& every = config.train.eval_every;
  // There is always one after the last step.
  const double evaluations = every == "epoch" ? std::min(steps, std::ceil(epochs))
                             : every == "0"   ? 1
                                              : std::ceil(steps / std::stod(every));
  const std::int64_t limit = config.data.test_limit > 0 ? config.data.test_limit : data.test_images;
  const auto tested = static_cast<double>(std::min(limit, data.test_images));
  return (kForwardAndBackward * samples + evaluations * tested) * macs / kMultiplyAddsPerSecond +
         batches * static_cast<double>(sizes.layers.size()) * kSecondsPerLayer +
         steps * static_cast<double>(sizes.parameters) * kSecondsPerParameter;
}

Trial Planner::make(int point, std::uint64_t seed, double lr_factor, bool search) {
  Trial trial{point, seed, lr_factor, search, {}};
  std::string& hash = hashes_[{point, seed, lr_factor}];
  if (hash.empty()) {
    const std::string text = changes_yaml(config_of(points_[point], trial));
    hash = sha256(std::as_bytes(std::span(text))).substr(0, kHashLetters);
  }
  trial.hash = hash;
  return trial;
}

std::vector<Trial> Planner::trials(const ErrorOf& error_of) {
  std::vector<Trial> all;
  for (int i = 0; i < static_cast<int>(points_.size()); ++i) add_point(i, error_of, all);
  return all;
}

void Planner::add_point(int point, const ErrorOf& error_of, std::vector<Trial>& out) {
  // Where all candidates diverge, the smallest one is the most likely to end well.
  const std::vector<double>& candidates = study_.lr_factors;
  double factor = candidates.empty() ? 1 : *std::min_element(candidates.begin(), candidates.end());
  double best = std::numeric_limits<double>::infinity();
  bool searching = false;
  for (const double candidate : candidates) {
    out.push_back(make(point, study_.lr_seed, candidate, true));
    const std::optional<double> error = error_of(out.back());
    searching = searching || !error;
    if (error && *error < best) {  // never true for NaN
      best = *error;
      factor = candidate;
    }
  }
  if (searching) return;

  std::vector<std::uint64_t> seeds = study_.seeds;
  std::vector<double> errors;
  for (std::size_t i = 0; i < seeds.size(); ++i) {
    out.push_back(make(point, seeds[i], factor, false));
    const std::optional<double> error = error_of(out.back());
    if (!error || std::isnan(*error)) continue;
    errors.push_back(*error);
    // One more when all so far have ended well, and leave too wide an interval.
    const bool complete = i + 1 == seeds.size() && errors.size() == seeds.size();
    const bool may_grow = study_.interval_below > 0 && static_cast<int>(seeds.size()) < study_.max_seeds;
    if (!complete || !may_grow) continue;
    const bool narrow = errors.size() >= kLeastToStop && mean_interval(errors).half < study_.interval_below;
    if (narrow) continue;
    std::uint64_t next = *std::max_element(seeds.begin(), seeds.end()) + 1;  // 0 after the last one that there is
    const auto taken = [&] {
      const bool of_search = !candidates.empty() && next == study_.lr_seed;
      return of_search || std::find(seeds.begin(), seeds.end(), next) != seeds.end();
    };
    while (taken()) ++next;
    seeds.push_back(next);
  }
}

}  // namespace syncbn
