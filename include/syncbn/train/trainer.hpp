#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "syncbn/comm/world.hpp"
#include "syncbn/train/config.hpp"

namespace syncbn {

struct TrainRequest {
  Config config;        ///< workers already resolved (> 0)
  std::string run_dir;  ///< resolved path
  bool resume = false;
  std::vector<std::string> overrides;  ///< as given, for the record
  std::vector<std::string> command;    ///< argv, for the record
};

struct TrainResult {
  double test_accuracy = 0, best_test_accuracy = 0;  ///< 0..1
  double test_loss = 0;
  std::int64_t steps = 0;
  double seconds = 0, images_per_second = 0;
  std::int64_t peak_rss_bytes = 0;  ///< of the largest rank
  bool stopped = false;             ///< by SIGTERM or SIGUSR1, after a checkpoint
};

/// Trains as the configuration says, in `world` (whose number of workers must equal config.workers). Collective over
/// ranks.
TrainResult train(World& world, const TrainRequest& request);

/// Accuracy and mean loss of stored weights on a split. Collective over ranks.
struct EvalResult {
  double accuracy = 0, loss = 0;
  std::int64_t correct = 0, samples = 0;
};
EvalResult evaluate(World& world, const Config& config, const std::string& weights_path, const std::string& split);

/// Set by the signal handler of the program (SIGTERM, SIGUSR1); the trainer checks it once per step, on all ranks
/// alike.
void request_stop() noexcept;

}  // namespace syncbn
