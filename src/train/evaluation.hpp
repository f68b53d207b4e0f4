#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "nn/network.hpp"
#include "syncbn/comm/world.hpp"
#include "syncbn/train/trainer.hpp"
#include "train/experiment.hpp"
#include "train/predictions.hpp"

namespace syncbn {

/// Evaluates the networks of a rank's workers by each of the statistics that train.eval_statistics names. Changes
/// nothing that training knows of.
class Evaluator {
 public:
  /// `say`: worker 0 calls it now and then with a line on how far a long evaluation has come.
  Evaluator(const World& world, const Experiment& experiment, std::function<void(const std::string&)> say);

  /// Exact accuracy and mean loss on a whole data set, each worker on its slice; one result per statistics, in the
  /// order of the configuration. `predictions`: receives those for this worker's slice, by the first of the statistics.
  /// Collective over all workers; `all` is theirs.
  std::vector<EvalResult> run(Network& network, const Dataset& dataset, Worker& worker, const Communicator& all,
                              std::int64_t step, std::vector<Prediction>* predictions = nullptr);

 private:
  EvalResult evaluate(Network& network, const Dataset& dataset, const Communicator& all, std::int64_t step,
                      Statistics statistics, std::vector<Prediction>* predictions) const;
  void measure_population(Network& network, Worker& worker, const Communicator& all, std::int64_t step);

  class Notes;

  const Experiment& experiment_;
  std::function<void(const std::string&)> say_;
  int loading_threads_;                 // of each worker
  std::optional<Loader> train_images_;  // where precise statistics are asked for
};

}  // namespace syncbn
