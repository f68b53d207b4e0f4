#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/loading/loader.hpp"
#include "nn/model_state.hpp"
#include "syncbn/comm/world.hpp"
#include "syncbn/train/config.hpp"

namespace syncbn {

/// A configuration turned into things: what a rank builds before its workers start.
struct Experiment {
  Config config;
  std::shared_ptr<const Dataset> train_set, test_set;  ///< null: not needed
  std::string data_fingerprint;                        ///< of both sets: what ranks compare, and a resumed run
  Augmentation augmentation;
  std::vector<float> pixel_values;  ///< see pixel_values()
  Model model;
  NormSettings norm;
  OptimizerOptions optimizer;
  ScheduleOptions schedule;            ///< lr scaled to the global batch, warm-up in steps
  std::int64_t batches_per_epoch = 0;  ///< global micro-batches
  std::int64_t total_steps = 0;        ///< updates

  std::int64_t micro_batch() const { return config.workers * config.batch_per_worker; }
  /// Samples of all workers in micro-batch `index` of an epoch.
  std::int64_t samples_in_batch(std::int64_t index) const;
  /// Samples of all workers in update `step`.
  std::int64_t samples_in_step(std::int64_t step) const;
  /// Epochs completed after `step` updates.
  std::int64_t epochs_after(std::int64_t step) const { return step * config.train.accumulate / batches_per_epoch; }
  /// Whether something due `every` ("epoch", a number of steps, 0 = never) is due after `step` updates.
  bool due(const std::string& every, std::int64_t step) const;
  /// What an evaluation normalizes with, see train.eval_statistics: the same for all if no layer shares any.
  std::vector<std::string> eval_statistics() const;
  /// Global micro-batches whose images make the precise statistics.
  std::int64_t precise_batches() const;
  const Dataset& split(const std::string& name) const { return name == "train" ? *train_set : *test_set; }
};

/// Reads the data and builds the model. Collective over ranks: they compare what they have read.
Experiment make_experiment(const World& world, const Config& config, const ops::Backend& backend);

/// What evaluating on `split` takes: no images but those and the ones of precise statistics are read, and what only
/// training needs is left as it is. `classes`: see open_dataset(). Collective as make_experiment().
Experiment make_evaluation(const World& world, const Config& config, const ops::Backend& backend,
                           const std::string& split, const std::vector<std::string>& classes);

/// What feeds this rank's workers in training.
LoaderOptions loader_options(const World& world, const Experiment& experiment);

/// Updates of a training with epochs of so many global micro-batches. Throws Error(usage) for absurdly many.
std::int64_t update_count(const Config::Train& train, std::int64_t batches_per_epoch);

/// Points of the learning rate's schedule that a training of so many updates does not reach, a line each: key, value,
/// and where the training ends.
std::vector<std::string> unreached_points(const Config& config, std::int64_t batches_per_epoch,
                                          std::int64_t total_steps);

/// How many consecutive workers of so many share statistics, as norm.group says: 1 where norm.type shares none, 0 for
/// the workers of a machine.
int norm_group_size(int workers, const Config::Norm& norm);

/// Workers of each group, in order; of norm.group = node that is of each machine. Throws Error(usage) where the ranks
/// of a machine do not lie side by side.
std::vector<int> norm_groups(const World& world, const Config::Norm& norm);

/// Their communicator. Collective over all workers.
Communicator make_norm_group(const Worker& worker, const Config::Norm& norm);

/// What is wrong where a group of workers (`groups`: workers of each) would come to have a single value per channel in
/// some layer, with the smaller last batch of an epoch perhaps, hours after the start of a training; else "". `images`:
/// of the training set; `batches_per_epoch`: global micro-batches; `steps`: updates in all.
std::string missing_variance(const Config& config, const Model& model, const std::vector<int>& groups,
                             std::int64_t images, std::int64_t batches_per_epoch, std::int64_t steps);

/// Throws it as Error(usage).
void require_variance(const World& world, const Experiment& e);

}  // namespace syncbn
