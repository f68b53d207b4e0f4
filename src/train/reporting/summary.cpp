#include "train/reporting/summary.hpp"

#include <nlohmann/json.hpp>

#include "core/build_id.hpp"

namespace syncbn {

std::string summary_json(const TrainResult& result, const Experiment& experiment, const World& world,
                         const ops::Backend& backend, const std::vector<std::string>& command) {
  const Config& c = experiment.config;
  const std::string accuracy = c.train.eval_split + "_accuracy", loss = c.train.eval_split + "_loss";
  nlohmann::ordered_json summary{
      {"schema", 1},
      {accuracy, result.accuracy},
      {"best_" + accuracy, result.best_accuracy},
      {loss, result.loss},
      {"images_per_second", nullptr},
      {"steps", result.steps},
      {"seconds", result.seconds},
      {"peak_rss_bytes", result.peak_rss_bytes},
      {"workers", c.workers},
      {"ranks", world.ranks()},
      {"threads", world.threads()},
      {"samples_per_worker", c.batch_per_worker},
      {"global_batch", c.workers * c.batch_per_worker * c.train.accumulate},
      {"norm_group", c.norm.group},
      {"parameters", experiment.model.parameter_count()},
      {"versions", {{"syncbn", SYNCBN_VERSION}, {"build", build_id()}, {"backend", backend.description()}}},
      {"hosts", world.hosts()},
      {"command", command}};
  if (result.images_per_second > 0) summary["images_per_second"] = result.images_per_second;
  const std::vector<std::string>& classes = experiment.train_set->class_names();
  if (!classes.empty()) summary["classes"] = classes;
  for (std::size_t i = 1; i < result.evaluations.size(); ++i) {
    const EvalResult& further = result.evaluations[i];
    summary[accuracy + "_" + further.statistics] = further.accuracy;
    summary[loss + "_" + further.statistics] = further.loss;
  }
  return summary.dump(2, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace syncbn
