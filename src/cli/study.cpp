#include "study/study.hpp"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <new>
#include <set>

#include "cli/commands.hpp"
#include "cli/launch.hpp"
#include "cli/log.hpp"
#include "cli/run_path.hpp"
#include "cli/signals.hpp"
#include "core/console.hpp"
#include "core/text.hpp"
#include "study/plan/plan.hpp"
#include "study/report/report.hpp"
#include "study/running/available_memory.hpp"
#include "train/storage/durable_file.hpp"

namespace syncbn::cli {
namespace {

/// Of the memory of all hosts, taken to be alike, what trials may use together.
constexpr double kMemoryShare = 0.8;

std::string time_text(double seconds) {
  if (seconds < 90) return fmt::format("{:.0f} s", seconds);
  if (seconds < 5400) return fmt::format("{:.0f} min", seconds / 60);
  return fmt::format("{:.1f} h", seconds / 3600);
}

void print_plan(const Study& study, int cores) {
  const std::vector<Point> points = resolve(study);
  std::set<std::string> distinct;  // points that differ in nothing that is read are trained once
  std::set<std::string> search;    // hashes: candidates of two points may be one training
  std::size_t width = 6;
  double seconds = 0, longest = 0;
  std::int64_t memory = 0;
  for (const Point& p : points) width = std::max(width, p.label.size());
  fmt::print("{}\n\n{:<{}}  {:>7}  {:>10}  {:>12}  {:>7}  {:>8}  {:>8}  {:>9}\n", study.title, "trials of", width,
             "workers", "per worker", "global batch", "bn_span", "lr", "updates", "each");
  for (const Point& p : points) {
    const Explanation& e = p.sizes;
    const std::string span = shares_statistics(p.config.norm.type) ? std::to_string(e.bn_span) : "-";
    fmt::print("{:<{}}  {:>7}  {:>10}  {:>12}  {:>7}  {:>8.4g}  {:>8}  {:>9}\n", p.label, width, e.workers,
               e.batch_per_worker, e.global_batch, span, p.lr, e.steps, time_text(p.seconds));
    if (distinct.insert(experiment_yaml(p.config)).second)
      seconds += p.seconds * static_cast<double>(study.seeds.size());
    longest = std::max(longest, p.seconds);
    memory = std::max(memory, p.memory_bytes);
  }
  for (const Trial& trial : Planner(study, points).trials([](const Trial&) { return std::nullopt; })) {
    if (trial.search && search.insert(trial.hash).second) seconds += points[trial.point].seconds;
  }
  const std::size_t trials = search.size() + distinct.size() * study.seeds.size();
  fmt::print("\n{}", counted(static_cast<std::int64_t>(points.size()), "point"));
  if (distinct.size() < points.size()) fmt::print(" ({} different)", distinct.size());
  // Points that differ in their rate alone may choose the same one.
  fmt::print(", {}{}", search.empty() ? "" : "up to ", counted(static_cast<std::int64_t>(trials), "trial"));
  if (!search.empty()) fmt::print(" ({} of them to choose learning rates)", search.size());
  if (study.interval_below > 0) {
    fmt::print(", more seeds (up to {}) until half of a point's interval is below {:g} points of error",
               study.max_seeds, study.interval_below);
  }
  fmt::print("\nroughly {} of one core's time; {} on {} cores; up to {:.1f} GiB a trial\n", time_text(seconds),
             time_text(std::max(longest, seconds / cores)), cores, static_cast<double>(memory) / (1 << 30));
}

/// Of what is being handled: the message is out before MPI ends, because mpirun ends all ranks when the first one has
/// left. `alike`: rank 0 has met it as well.
[[noreturn]] void leave(const Job& job, const char* what, ExitCode code, bool alike) {
  if (job.ranks() == 1) throw;
  if (job.first()) {
    spdlog::error(what);
  } else if (!alike) {
    write_stderr(fmt::format("syncbn: rank {}: {}\n", job.rank(), what));
  }
  throw ReportedByRankZero(code);
}

}  // namespace

ExitCode run_study(const StudyOptions& options) {
  if (!options.dry_run) stop_on_signals();  // a request to stop may come at once
  const Job job;
  start_logging(job.rank(), false);
  job.require_alike(options.command);
  StudyRequest request;
  const int cores = job.cores_offered();
  const std::string devices = job.on_rank_zero([&] {
    request.study = load_study(options.config, options.overrides);
    request.dir = options.output.empty() ? "studies/" + request.study.name : options.output;
    require_utf8(request.dir, "--output");
    if (options.dry_run) print_plan(request.study, cores);
    std::string all;
    for (const Point& point : resolve(request.study)) all += point.config.device;
    return all;
  });
  if (options.dry_run) return ExitCode::ok;
  if (devices.find("cpu") != std::string::npos) job.require_same_instructions();
  request.threads_per_rank = std::max(1, cores / job.ranks());
  const std::set<int> machines(job.nodes().begin(), job.nodes().end());
  request.memory_bytes = static_cast<std::int64_t>(kMemoryShare * static_cast<double>(available_memory()) *
                                                   static_cast<double>(machines.size()));
  request.jobs = options.jobs;
  request.command = options.command;
  request.hosts = job.hosts();

  const auto teams = job.make_teams();
  StudyResult result;
  try {
    result = syncbn::run_study(request, *teams);
  } catch (const Error& e) {
    leave(job, e.what(), e.code(), true);
  } catch (const std::bad_alloc&) {
    leave(job, "out of memory; run fewer trials at once (--jobs)", ExitCode::failure, false);
  } catch (const std::exception& e) {
    leave(job, e.what(), ExitCode::failure, false);
  }
  if (!job.first()) return result.stopped ? ExitCode::stopped : ExitCode::ok;
  if (result.stopped) {
    spdlog::info("stopped by a signal; {} of {} trials have ended, and the same command goes on with the rest",
                 result.done + result.diverged, result.trials);
    return ExitCode::stopped;
  }
  fmt::print("{}report  {}/report.html\n", summary_text(request.dir), request.dir);
  if (result.failed > 0) {
    spdlog::error("{} of {} trials failed; the same command tries them again", result.failed, result.trials);
    return ExitCode::failure;
  }
  if (result.done == 0) {
    spdlog::error("none of {} trials has a result: all diverged; lower the learning rate (optimizer.lr)",
                  result.trials);
    return ExitCode::failure;
  }
  return ExitCode::ok;
}

ExitCode run_report(const ReportOptions& options) {
  const std::string file = options.output.empty() ? options.dirs.front() + "/report.html" : options.output;
  require_writable(file);
  // Not under the name that a running study writes its own under.
  const std::string own = fmt::format("{}.{}", file, ::getpid());
  write_report(options.dirs, own);
  std::filesystem::rename(own, file);
  for (const std::string& dir : options.dirs) fmt::print("{}", summary_text(dir));
  fmt::print("report  {}\n", file);
  return ExitCode::ok;
}

}  // namespace syncbn::cli
