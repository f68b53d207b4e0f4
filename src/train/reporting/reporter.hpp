#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "syncbn/train/progress.hpp"
#include "syncbn/train/trainer.hpp"
#include "train/experiment.hpp"
#include "train/probes/probe.hpp"
#include "train/reporting/event_file.hpp"
#include "train/storage/run_directory.hpp"

namespace syncbn {

/// Loss and accuracy over some updates.
struct TrainStatistics {
  double loss_sum = 0;
  std::int64_t correct = 0;
  std::int64_t samples = 0;
  void add(double loss, std::int64_t right, std::int64_t n) {
    loss_sum += loss;
    correct += right;
    samples += n;
  }
  double loss() const { return loss_sum / static_cast<double>(samples); }
  double accuracy() const { return static_cast<double>(correct) / static_cast<double>(samples); }
};

/// Times of all workers together, measured at the end of a step's backward pass.
struct WorkerTimes {
  /// Mean over workers of the time since the start; no single worker's clock is representative, since scheduling order
  /// is arbitrary.
  double now_s = 0;
  /// Shares of the compute threads' time, over all ranks, that were lost by waiting.
  double waited_statistics = 0, waited_gradients = 0;
};

/// Tells the user, metrics.jsonl and probes.jsonl how the training goes. Used by worker 0 alone.
class Reporter {
 public:
  Reporter(const Experiment& experiment, RunDirectory& directory, std::int64_t first_step, const TrainRequest& request);

  void step(std::int64_t step, double lr, const TrainStatistics& update, const WorkerTimes& times);
  /// `results`: one for each of train.eval_statistics.
  void evaluation(std::int64_t step, const std::vector<EvalResult>& results, double best, bool final);
  /// The scale of the loss has changed with this update. `updated`: whether the update was made or skipped.
  void loss_scale(std::int64_t step, double scale, bool updated);
  void probes(std::int64_t step, const std::vector<Measurement>& rows);
  /// A line on the terminal and in the run's log.
  void message(const std::string& line);
  void finish() { progress_.finish(); }

  /// Sums since the last line of metrics.jsonl, and times and images so far; part of a checkpoint.
  std::map<std::string, std::string> scalars() const;
  void restore(const std::map<std::string, std::string>& scalars);
  struct Saved {
    TrainStatistics interval;
    double seconds = 0, train_seconds = 0, images = 0;
  };
  /// What restore() takes from the scalars. Throws Error(bad_data) naming a scalar that is missing or invalid.
  static Saved saved(const std::map<std::string, std::string>& scalars);
  /// After restore(): the step of the last training line that metrics.jsonl had by then.
  std::int64_t recorded_to() const;

  /// This and images_per_second() cover all starts of the run, without what was trained past a checkpoint and then
  /// lost.
  double seconds() const;
  /// Training images per second, without evaluations.
  double images_per_second() const { return train_seconds_ > 0 ? images_ / train_seconds_ : 0; }

 private:
  using Clock = std::chrono::steady_clock;
  void record(const nlohmann::ordered_json& line);

  const Experiment& experiment_;
  RunDirectory& directory_;
  Progress progress_;
  std::function<void(const ProgressState&)> watch_;
  std::unique_ptr<EventFile> events_;
  TrainStatistics interval_;
  Clock::time_point start_ = Clock::now();
  std::optional<double> last_step_s_;  // moved later by the time of evaluations since
  Clock::time_point last_step_at_;
  std::int64_t first_step_;
  double images_ = 0, train_seconds_ = 0;
  double recent_images_ = 0, recent_seconds_ = 0;  // decaying sums over the last steps
  double earlier_train_seconds_ = 0;               // of train_seconds_, before this start
  double last_accuracy_;
};

}  // namespace syncbn
