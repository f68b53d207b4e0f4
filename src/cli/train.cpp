#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <filesystem>

#include "cli/commands.hpp"
#include "cli/launch.hpp"
#include "cli/log.hpp"
#include "cli/run_path.hpp"
#include "cli/signals.hpp"
#include "syncbn/train/trainer.hpp"
#include "train/compute.hpp"
#include "train/storage/durable_file.hpp"
#include "train/storage/run_directory.hpp"

namespace syncbn::cli {
namespace {

/// A study's name without its folder is no configuration, but says what is meant.
void require_no_study(const std::string& config) {
  const std::string study = shipped_study(config);
  if (study.empty() || path_exists(config)) return;
  throw Error(fmt::format("{}: not a configuration; studies are started with: syncbn study {}", config, study),
              ExitCode::usage);
}

/// What `workers: auto` means where a run goes on: as many as it has. 0 where there is no run yet.
int workers_of_run(const std::string& run_dir) {
  const std::string file = run_dir + "/config.yaml";
  std::error_code error;
  std::vector<std::string> unread;  // an earlier version may have written values that nothing reads
  return std::filesystem::exists(file, error) ? load_config(file, {}, {}, &unread).workers : 0;
}

void print_result(const TrainResult& result, const std::string& split, const std::string& run_dir) {
  fmt::print("{:20}{:.4f}\n", split + "_accuracy", result.accuracy);
  for (std::size_t i = 1; i < result.evaluations.size(); ++i) {
    const EvalResult& further = result.evaluations[i];
    fmt::print("{:20}{:.4f}\n", "accuracy_" + further.statistics, further.accuracy);
  }
  fmt::print("{:20}{:.4f}\n", "best_" + split + "_accuracy", result.best_accuracy);
  fmt::print("{:20}{:.4f}\n", split + "_loss", result.loss);
  fmt::print("steps               {}\n", result.steps);
  fmt::print("seconds             {:.1f}\n", result.seconds);
  if (result.images_per_second > 0) fmt::print("images_per_second   {:.1f}\n", result.images_per_second);
  fmt::print("run                 {}\n", run_dir);
}

}  // namespace

ExitCode run_train(const TrainOptions& options) {
  stop_on_signals();  // a request to stop may come at once
  const Job job;
  start_logging(job.rank(), options.log_ranks);
  job.require_alike(options.command);
  TrainRequest request;
  request.config = job.load([&] {
    require_no_study(options.config);
    Config config = load_run_or_config(options.config, options.overrides);
    config.output.dir = run_path(config, options.config);
    require_utf8(config.output.dir, "output.dir");
    // Creating it fails as well if it is in use; here the refusal comes before any other work.
    RunDirectory::require_usable(config.output.dir, options.resume);
    if (options.resume && config.workers == 0) config.workers = workers_of_run(config.output.dir);
    return config;
  });
  if (request.config.device == "cpu") job.require_same_instructions();
  request.run_dir = request.config.output.dir;
  request.resume = options.resume;
  request.overrides = options.overrides;
  request.command = options.command;
  log_to_run_directory(job.rank(), request.run_dir);
  report_crashes(job.rank(), request.run_dir);

  World world = job.make_world(world_options(request.config));
  spdlog::info(sizes_line(request.config, world.ranks(), world.threads()));
  TrainResult result;
  run_guarded(world, [&] { result = train(world, request); });
  finish_logging();
  if (result.stopped) {
    spdlog::info("stopped by a signal after a checkpoint at step {}; the same command with --resume goes on",
                 result.steps);
    return ExitCode::stopped;
  }
  if (job.first()) print_result(result, request.config.train.eval_split, request.run_dir);
  return ExitCode::ok;
}

}  // namespace syncbn::cli
