#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "comm/devices/device_sums.hpp"
#include "comm/gradients/gradient_exchange.hpp"
#include "comm/gradients/machine_memory.hpp"
#include "nn/network.hpp"
#include "nn/repeated_pass.hpp"
#include "syncbn/optim/optimizer.hpp"
#include "syncbn/train/trainer.hpp"
#include "train/buckets.hpp"
#include "train/evaluation.hpp"
#include "train/experiment.hpp"
#include "train/loss_scale.hpp"
#include "train/probes/probes.hpp"
#include "train/rank_device.hpp"
#include "train/reporting/reporter.hpp"
#include "train/run_progress.hpp"
#include "train/storage/checkpoint_writer.hpp"
#include "train/storage/run_directory.hpp"

namespace syncbn {

/// What the workers of one rank share during a training: weights and optimizer, which may be those of all ranks of the
/// machine, loader, gradient exchange; on the rank of worker 0 also the run directory, its checkpoints and the
/// reporter.
class TrainingRun {
 public:
  /// `memory`: where the backend allocates on the processor, planned and not yet made real. Collective over ranks.
  TrainingRun(World& world, const TrainRequest& request, const ops::Backend& backend, MachineMemory& memory);

  /// Trains with one worker of this rank; World::run calls it for each. Collective over all workers.
  void work(Worker& worker);
  /// Writes final.safetensors and summary.json (worker 0's rank). Collective over ranks.
  TrainResult finish();

 private:
  struct WorkerState;

  void start_from_weights();
  void open_directory(const TrainRequest& request);
  /// From the newest checkpoint, if the run is resumed and has one. Collective over ranks.
  void begin();
  std::optional<TrainingState> newest_checkpoint();
  void require_same_surroundings(const RunProgress& saved) const;
  void go_on_from(const TrainingState& saved);
  void start_reporting(const TrainingState* saved);
  void train_step(WorkerState& w, std::int64_t step);
  void forward_backward(WorkerState& w, std::int64_t step, TrainStatistics& own);
  /// Waits until the gradients of all workers are summed; returns the sum of their statistics.
  TrainStatistics finish_exchange(WorkerState& w, std::int64_t step, const TrainStatistics& own);
  [[noreturn]] void report_nonfinite(WorkerState& w, std::int64_t step);
  void update_weights(WorkerState& w, std::int64_t step);
  /// What the optimizer multiplies the gradient with, to take out the loss's scale and to clip; nothing if the loss's
  /// scale was too large.
  std::optional<double> gradient_scale(WorkerState& w, std::int64_t step, std::span<const float> gradient);
  void report_loss_scale(WorkerState& w, std::int64_t step, bool updated);
  void show_gradient(WorkerState& w, std::int64_t step, std::span<const float> gradient);
  /// work(part, parts) on what the workers of this rank, or machine, share, each its part, on a device the first worker
  /// all; then waits until all have done theirs.
  template <class Work>
  void together(WorkerState& w, std::int64_t step, Work work);
  /// Throws Error if a rank's, or machine's, copy of weights and optimizer is not as the others. Collective over all
  /// workers, whose communicator is given.
  void compare_copies(const Worker& worker, const Communicator& all, std::int64_t steps_done);
  /// True if the accuracy is the best so far.
  bool evaluate_if_due(WorkerState& w, std::int64_t steps_done);
  void save_if_due(WorkerState& w, std::int64_t steps_done, bool improved);
  SafetensorsFile weights();
  TrainingState snapshot();
  /// See CheckpointWriter::save().
  void save(bool is_best, bool last);

  World& world_;
  const ops::Backend& backend_;
  MachineMemory& memory_;
  TrainRequest request_;
  Experiment experiment_;
  ModelState state_;
  std::vector<ParameterSlot> slots_;
  std::unique_ptr<Optimizer> optimizer_;
  BucketPlan buckets_;
  // On a device; else null.
  std::shared_ptr<RankDevice> for_gradients_;
  std::unique_ptr<ops::Mark> updated_;  // the weights are new
  // On a device where workers share statistics; else null.
  std::unique_ptr<const ops::Backend> messenger_;  // in whose queue they are summed
  std::shared_ptr<RankDevice> for_statistics_;
  std::unique_ptr<DeviceSums> sums_;  // null as well where they must go by way of the processors
  GradientExchange exchange_;
  RepeatedPass forward_, backward_;
  std::vector<float> probed_exchanged_, probed_gradient_;  // copies from a device, for probes
  ops::Memory total_gradient_;                             // summed over all workers
  std::span<double> squares_;                              // of each parameter's gradient
  LossScale loss_scale_;
  Loader loader_;
  Evaluator evaluator_;
  // As of the checkpoint that the run goes on from; later evaluations are known to all ranks, the rest to worker 0's.
  RunProgress progress_;
  std::int64_t first_step_ = 0;
  std::atomic<bool> stopping_ = false;
  std::string about_weights_, other_kernels_;  // for the user, once there is a reporter

  // On the rank of worker 0 only.
  std::optional<RunDirectory> directory_;
  std::unique_ptr<Reporter> reporter_;
  std::optional<CheckpointWriter> checkpoints_;
  bool passed_over_ = false;  // a checkpoint, because the disk is slow
};

}  // namespace syncbn
