#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "syncbn/comm/world.hpp"
#include "syncbn/train/config.hpp"
#include "syncbn/train/progress.hpp"

namespace syncbn {

struct TrainRequest {
  Config config;        ///< workers already resolved (> 0)
  std::string run_dir;  ///< resolved path; not empty
  bool resume = false;
  std::vector<std::string> overrides;  ///< as given, for the record
  std::vector<std::string> command;    ///< argv, for the record
  /// Gets the progress instead of the terminal, on rank 0 only, in a worker's thread; must not throw. For trainings
  /// side by side.
  std::function<void(const ProgressState&)> watch = {};
  /// What the run is one of many for, as TensorBoard shows it (output.tensorboard).
  std::vector<std::pair<std::string, std::string>> hyperparameters = {};
};

/// The loss is no longer a finite number. The training has ended there, with all files in place.
class Diverged : public Error {
 public:
  using Error::Error;
};

/// How well a network does on a split.
struct EvalResult {
  std::string statistics = "running";        ///< that it normalizes with, see Config::Train::eval_statistics
  double accuracy = 0, loss = 0;             ///< accuracy 0..1
  std::optional<double> top5_accuracy = {};  ///< the label is among the five likeliest; nothing with 5 classes or fewer
  std::int64_t correct = 0, samples = 0;
};

struct TrainResult {
  double accuracy = 0, best_accuracy = 0;  ///< 0..1, on the images of train.eval_split
  double loss = 0;
  std::vector<EvalResult> evaluations;  ///< the final one, by each of train.eval_statistics; the first is the above
  std::int64_t steps = 0;
  /// Of the run, over all its starts: since training began, and of training images while there was nothing else to do
  /// (0: not known, of a single update).
  double seconds = 0, images_per_second = 0;
  std::int64_t peak_rss_bytes = 0;  ///< of the largest rank
  bool stopped = false;             ///< by request_stop(), after a checkpoint
};

/// Trains as the configuration says, in `world` (whose number of workers must equal config.workers). Collective over
/// ranks. Throws Diverged on at least one rank when the loss is not finite; trainings in worlds of their own may run
/// side by side in one process.
TrainResult train(World& world, const TrainRequest& request);

/// Accuracy and mean loss of stored weights on a split, by each of config.train.eval_statistics. Rank 0 writes what the
/// first of these predicts, a row per image, into the CSV file `predictions_path`; empty: into none. Collective over
/// ranks.
std::vector<EvalResult> evaluate(World& world, const Config& config, const std::string& weights_path,
                                 const std::string& split, const std::string& predictions_path = "");

/// For a signal handler; the trainer checks it once per step, on all ranks alike. It stays: a training that is started
/// later in the same process stops after its first step.
void request_stop() noexcept;
bool stop_requested() noexcept;

}  // namespace syncbn
