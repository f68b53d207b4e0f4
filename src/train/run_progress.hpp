#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "syncbn/train/trainer.hpp"
#include "train/storage/checkpoint.hpp"

namespace syncbn {

/// How far a training has come, besides its tensors, its loss scale and what its Reporter counts. Part of a checkpoint.
struct RunProgress {
  // Which experiment the checkpoint belongs to: no other may go on from it. Set on all ranks.
  std::uint64_t seed = 0;
  std::string data;        ///< Experiment::data_fingerprint
  std::string machines;    ///< norm.group = node: workers of each, "2+2"; else empty
  std::string kernels;     ///< Backend::description(): with other instructions or another oneDNN, rounding differs
  std::string experiment;  ///< SHA-256 of changes_yaml() without data.path, which later versions with more keys keep

  // Known to all ranks at all times.
  double best_accuracy = -1;            ///< -1: no evaluation yet
  std::int64_t last_evaluation = -1;    ///< steps done at that time; -1: no evaluation yet
  std::vector<EvalResult> evaluations;  ///< results of the last evaluation, as Evaluator::run() gives them

  // Kept up to date on the rank of worker 0; elsewhere as of the start.
  std::int64_t steps_done = 0;
  std::int64_t updates = 0;                      ///< as counted by the optimizer; set when a checkpoint is made
  std::map<std::string, std::string> of_probes;  ///< state of the probes; keys start with "probe."

  /// All but steps_done, which a checkpoint stores separately.
  std::map<std::string, std::string> scalars() const;
  /// The reverse, except for the seed, which the experiment knows. `statistics`: those of train.eval_statistics whose
  /// evaluations are wanted. Throws Error(bad_data) naming a scalar that is missing or invalid.
  static RunProgress of(const TrainingState& saved, const std::vector<std::string>& statistics);
};

}  // namespace syncbn
