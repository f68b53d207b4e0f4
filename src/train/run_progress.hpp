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
  // What the checkpoint belongs to; the weights of another experiment must not go on from it.
  std::uint64_t seed = 0;
  std::string data;        ///< Experiment::data_fingerprint
  std::string machines;    ///< norm.group = node: workers of each, "2+2"; else empty
  std::string kernels;     ///< Backend::description(): other instructions, or another oneDNN, round otherwise
  std::string experiment;  ///< SHA-256 of changes_yaml() without data.path, which later versions with more keys keep

  std::int64_t steps_done = 0;
  std::int64_t updates = 0;                      ///< that the optimizer has counted
  double best_accuracy = -1;                     ///< below any until there has been an evaluation
  std::int64_t last_evaluation = -1;             ///< steps done then; -1: none yet
  std::vector<EvalResult> evaluations;           ///< the last one's, as Evaluator::run() gives them
  std::map<std::string, std::string> of_probes;  ///< their keys start with "probe."

  /// All but steps_done, which a checkpoint has besides.
  std::map<std::string, std::string> scalars() const;
  /// The reverse but for the seed, which the experiment tells. `statistics`: of train.eval_statistics, whose
  /// evaluations are wanted. Throws Error(bad_data), which names a scalar that is missing or cannot be.
  static RunProgress of(const TrainingState& saved, const std::vector<std::string>& statistics);
};

}  // namespace syncbn
