#include "train/reporting/summary.hpp"

#include <nlohmann/json.hpp>

#include "core/build_id.hpp"

namespace syncbn {

std::string summary_json(const TrainResult& result, const Experiment& experiment, const World& world,
                         const ops::Backend& backend, const std::vector<std::string>& command) {
  const Config& c = experiment.config;
  const std::string& split = c.train.eval_split;
  const std::string accuracy = split + "_accuracy", loss = split + "_loss", top5 = split + "_top5_accuracy";
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
  for (std::size_t i = 0; i < result.evaluations.size(); ++i) {
    const EvalResult& r = result.evaluations[i];
    const std::string by = i == 0 ? "" : "_" + r.statistics;
    summary[accuracy + by] = r.accuracy;
    summary[loss + by] = r.loss;
    if (r.top5_accuracy) summary[top5 + by] = *r.top5_accuracy;
  }
  return summary.dump(2, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace syncbn
