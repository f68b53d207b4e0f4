#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "syncbn/train/trainer.hpp"
#include "train/shared_training.hpp"
#include "train/storage/checkpoint_writer.hpp"
#include "train/storage/run_directory.hpp"

namespace syncbn {

/// A training on one rank: sets up what its workers share, lets each of them train (WorkerLoop), saves checkpoints, and
/// writes what is left at the end.
class TrainingRun {
 public:
  /// `memory`: where the backend allocates on the CPU, planned and not yet made real. Collective over ranks.
  TrainingRun(World& world, const TrainRequest& request, const ops::Backend& backend, MachineMemory& memory);

  /// Trains with one worker of this rank; World::run calls it for each. Collective over all workers.
  void work(Worker& worker);
  /// Writes final.safetensors and summary.json (worker 0's rank). Collective over ranks.
  TrainResult finish();

 private:
  void start_from_weights();
  void open_directory(const TrainRequest& request);
  /// Starts from the newest checkpoint if the run is resumed and has one. Collective over ranks.
  void begin();
  std::optional<TrainingState> newest_checkpoint();
  void require_same_surroundings(const RunProgress& saved) const;
  void go_on_from(const TrainingState& saved);
  void start_reporting(const TrainingState* saved);
  SafetensorsFile weights();
  TrainingState snapshot();
  /// See CheckpointWriter::save().
  void save(bool is_best, bool last);

  TrainRequest request_;
  SharedTraining shared_;
  World& world_;
  const Experiment& experiment_;
  ModelState& state_;
  RunProgress& progress_;
  std::string about_weights_, other_kernels_;  // for the user, once there is a reporter

  // On the rank of worker 0 only.
  std::optional<RunDirectory> directory_;
  std::unique_ptr<Reporter> reporter_;
  std::optional<CheckpointWriter> checkpoints_;
  bool passed_over_ = false;  // a checkpoint has been skipped, because the disk is slow
};

}  // namespace syncbn
