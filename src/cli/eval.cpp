#include <fmt/format.h>

#include <algorithm>

#include "cli/commands.hpp"
#include "cli/launch.hpp"
#include "cli/log.hpp"
#include "syncbn/train/trainer.hpp"
#include "train/checkpoint.hpp"
#include "train/config_check.hpp"
#include "train/durable_file.hpp"

namespace syncbn::cli {

ExitCode run_eval(const EvalOptions& options) {
  const Job job;
  start_logging(job.rank(), options.log_ranks);
  bool run_dir = false;  // known to rank 0
  const Config config = job.load([&] {
    run_dir = path_exists(options.config + "/config.yaml");
    std::vector<std::string> unread;  // an earlier version may have written values that nothing reads
    Config read = load_config(run_dir ? options.config + "/config.yaml" : options.config, options.overrides, {},
                              run_dir ? &unread : nullptr);
    for (const std::string& text : options.overrides) {
      const std::string key = text.substr(0, text.find('='));
      if (std::find(unread.begin(), unread.end(), key) == unread.end()) continue;
      throw Error(fmt::format("command line: {}: {}", key, detail::why_unread(key, read)), ExitCode::usage);
    }
    if (options.weights.empty() && !run_dir) {
      throw Error(
          fmt::format("{} is not a run directory, so the weights must be named: --weights FILE", options.config),
          ExitCode::usage);
    }
    return read;
  });
  // On one rank, because the run may go on meanwhile.
  const std::string weights = job.on_rank_zero([&] {
    if (options.weights.empty()) {
      CheckpointStore::require_ended(options.config);
      return options.config + "/final.safetensors";
    }
    const bool word = run_dir && (options.weights == "best" || options.weights == "last");
    return CheckpointStore::resolve(word ? options.config + "/" + options.weights : options.weights);
  });

  World world = job.make_world(config);
  std::vector<EvalResult> results;
  run_guarded(world, [&] { results = evaluate(world, config, weights, options.split); });
  for (const EvalResult& result : job.first() ? results : std::vector<EvalResult>{}) {
    if (results.size() > 1) fmt::print("{} statistics\n", result.statistics);
    fmt::print("accuracy  {:.4f}\n", result.accuracy);
    fmt::print("loss      {:.4f}\n", result.loss);
    fmt::print("correct   {}\n", result.correct);
    fmt::print("samples   {}\n", result.samples);
  }
  return ExitCode::ok;
}

}  // namespace syncbn::cli
