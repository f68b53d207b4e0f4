#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "train/probes/probes.hpp"
#include "train/shared_training.hpp"
#include "train/stragglers.hpp"

namespace syncbn {

/// What one worker does in a training: the loop over updates, from batch to new weights. Its own things are members
/// here; all that it has in common with the other workers of its rank is in SharedTraining, whose table says who writes
/// and reads it between which barriers.
class WorkerLoop {
 public:
  /// Collective over all workers, as is run().
  WorkerLoop(SharedTraining& shared, Worker& worker);
  /// Trains to the end, or until the user stops it.
  void run();
  /// Updates made, or of the one under way: those before it. May be asked after a failure.
  std::int64_t step() const { return step_; }

 private:
  bool is_first() const { return worker_.index() == 0; }
  bool is_first_here() const { return worker_.local_index() == 0; }
  const ops::Device* device() const { return network_.backend().device(); }
  /// Whether this update's passes queue the same as those of others. Probes want to see theirs layer by layer.
  bool repeats() const { return repeats_ && !probing_; }
  std::unique_ptr<Probes> make_probes();

  void train_step();
  void forward_backward(TrainStatistics& own);
  /// Waits until the gradients of all workers are summed; returns the sum of their statistics.
  TrainStatistics finish_exchange(const TrainStatistics& own);
  [[noreturn]] void report_nonfinite();
  void update_weights();
  /// What the optimizer multiplies the gradient with, to undo the scale of the loss and to clip; nothing if that scale
  /// was too large.
  std::optional<double> gradient_scale(std::span<const float> gradient);
  void report_loss_scale(bool updated);
  /// Copies a part of a gradient on a device for the probes, without the loss's scale.
  void fetch_gradient(FlatRange r);
  void show_gradient(std::span<const float> gradient);
  /// Work on what all workers that share the weights have in common: each calls work(part, parts) for its part; on a
  /// device the first worker of the rank does everything. Returns after a barrier, when all have done theirs.
  template <class Work>
  void together(Work work);
  /// Throws Error if the copies of weights and optimizer differ between ranks or machines. Collective over all workers.
  void compare_copies(std::int64_t steps_done);
  /// True if the accuracy is the best so far.
  bool evaluate_if_due(std::int64_t steps_done);
  void save_if_due(std::int64_t steps_done, bool improved);

  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();  // before anything can wait
  SharedTraining& shared_;
  const Experiment& experiment_;
  Worker& worker_;
  const World& world_;
  MachineMemory::Barrier all_done_;  // of those who share the weights
  Communicator group_;               // shares batch statistics
  Communicator metrics_;             // all workers
  std::span<float> gradient_;
  int groups_;
  Network network_;
  std::unique_ptr<ops::Mark> computed_;  // on a device: this worker's gradient of the step
  std::vector<float> gradient_here_;     // for the probes: a copy of a gradient on a device
  std::unique_ptr<Probes> probes_;       // nullptr: none
  bool probing_ = false;                 // in this update
  bool repeats_ = false;
  WorkerTimes times_;
  Stragglers stragglers_;
  std::int64_t step_;
};

}  // namespace syncbn
