#include <fmt/format.h>

#include "cli/commands.hpp"
#include "cli/launch.hpp"
#include "cli/log.hpp"
#include "cli/run_path.hpp"
#include "syncbn/train/trainer.hpp"
#include "train/compute.hpp"
#include "train/storage/checkpoint.hpp"
#include "train/storage/durable_file.hpp"

namespace syncbn::cli {

ExitCode run_eval(const EvalOptions& options) {
  const Job job;
  start_logging(job.rank(), options.log_ranks);
  job.require_alike(options.command);
  bool run_dir = false;  // known to rank 0
  const Config config = job.load([&] {
    run_dir = is_run(options.config);
    Config read = load_run_or_config(options.config, options.overrides);
    if (options.weights.empty() && !run_dir) {
      throw Error(
          fmt::format("{} is not a run directory, so the weights must be named: --weights FILE", options.config),
          ExitCode::usage);
    }
    return read;
  });
  if (config.device == "cpu") job.require_same_instructions();
  const std::string weights = job.on_rank_zero([&] {
    if (!options.predictions.empty()) require_writable(options.predictions);
    if (options.weights.empty()) {
      CheckpointStore::require_ended(options.config);
      return options.config + "/final.safetensors";
    }
    const bool word = run_dir && (options.weights == "best" || options.weights == "last");
    const std::string path = word ? options.config + "/" + options.weights : options.weights;
    CheckpointStore::resolve(path);  // says that there is none; the run may go on, so that only reading it tells which
    return path;
  });

  const std::string& split = options.split.empty() ? config.train.eval_split : options.split;
  World world = job.make_world(world_options(config));
  std::vector<EvalResult> results;
  run_guarded(world, [&] { results = evaluate(world, config, weights, split, options.predictions); });
  for (const EvalResult& result : job.first() ? results : std::vector<EvalResult>{}) {
    if (results.size() > 1) fmt::print("{} statistics\n", result.statistics);
    fmt::print("accuracy  {:.4f}\n", result.accuracy);
    if (result.top5_accuracy) fmt::print("top-5     {:.4f}\n", *result.top5_accuracy);
    fmt::print("loss      {:.4f}\n", result.loss);
    fmt::print("correct   {}\n", result.correct);
    fmt::print("samples   {}\n", result.samples);
  }
  return ExitCode::ok;
}

}  // namespace syncbn::cli
