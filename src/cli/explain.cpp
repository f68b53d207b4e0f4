#include "train/explain/explain.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "cli/commands.hpp"
#include "cli/cores.hpp"
#include "cli/launch.hpp"
#include "cli/run_path.hpp"
#include "core/text.hpp"
#include "train/explain/cost_model.hpp"

namespace syncbn::cli {
namespace {

constexpr const char* kComparison =
    R"(How this differs from --sync-bn and --dist-bn of other trainers:
  torch's SyncBatchNorm (--sync-bn) ties the statistics to processes: the span is what the started GPUs hold. Here
  norm.group says how many workers share statistics, and workers are part of the experiment: 1 is what others call
  local, all is --sync-bn, numbers between are process groups, and none of them depends on how many ranks are started.
  --dist-bn (timm) averages or copies the running statistics of local layers once an epoch; it matters to evaluation
  only, the gradients never see it. Here running statistics are the same on all workers after every step: those of the
  shared batch statistics, averaged over the groups if there are several.
)";

std::string bytes_text(std::int64_t bytes) {
  const auto b = static_cast<double>(bytes);
  if (bytes < 10'000) return fmt::format("{} B", bytes);
  if (bytes < 1 << 20) return fmt::format("{:.1f} KiB", b / 1024);
  return fmt::format("{:.1f} MiB", b / (1 << 20));
}

void print_layers(const Explanation& e) {
  std::size_t name = 5, type = 4, output = 12;
  for (const auto& layer : e.layers) {
    name = std::max(name, layer.name.size());
    type = std::max(type, layer.type.size());
    output = std::max(output, layer.output.size());
  }
  const auto row = [&](const std::string& a, const std::string& b, const std::string& c, const std::string& d) {
    fmt::print("{:<{}}  {:<{}}  {:<{}}  {:>10}\n", a, name, b, type, c, output, d);
  };
  row("layer", "type", "output shape", "parameters");
  for (const auto& layer : e.layers) {
    row(layer.name, layer.type, layer.output, layer.parameters == 0 ? "" : std::to_string(layer.parameters));
  }
}

void print_traffic(const char* what, const Traffic& traffic) {
  if (traffic.messages == 0) {
    fmt::print("  {:<22} none\n", what);
  } else {
    fmt::print("  {:<22} {}, {}\n", what, counted(traffic.messages, "message"), bytes_text(traffic.bytes));
  }
}

MachineFigures figures_of(const ExplainOptions& o) {
  return {o.sample_us * 1e-6, o.update_us * 1e-6, o.latency_us * 1e-6, o.per_message_us * 1e-6, o.bandwidth_gbs * 1e9,
          o.skew_us * 1e-6,   o.threads};
}

/// Alone all cores compute; several ranks compute on one core each and exchange messages.
MachineFigures measure_here(const Job& job, const Config& config, const MachineFigures& otherwise) {
  WorldOptions options;
  options.workers = job.ranks() > 1 ? job.ranks() : static_cast<int>(allowed_cores().size());
  World world = job.make_world(options);
  MachineFigures figures;
  run_guarded(world, [&] { figures = measure_machine(world, config, otherwise); });
  return figures;
}

void print_prediction(const Config& config, const MachineFigures& f) {
  fmt::print(
      "\nestimated time of an update, ms, from {:.0f} us per sample and core, {:.0f} us per update of the weights, "
      "{:.1f} us + {:.1f} us per further rank and exchange, {:.2f} GB/s, skew {:.1f} us; {} a rank:\n",
      1e6 * f.sample, 1e6 * f.update, 1e6 * f.latency, 1e6 * f.per_message, 1e-9 * f.bandwidth, 1e6 * f.skew,
      counted(f.threads, "core"));
  fmt::print("{:>6} {:>9} {:>9} {:>11} {:>10} {:>8} {:>8} {:>10}  {}\n", "ranks", "step", "compute", "statistics",
             "gradients", "skew", "update", "samples/s", "most of it");
  const double samples = static_cast<double>(config.workers * config.batch_per_worker * config.train.accumulate);
  for (const StepCost& c : predict_steps(config, f)) {
    fmt::print("{:>6} {:>9.2f} {:>9.2f} {:>11.2f} {:>10.2f} {:>8.2f} {:>8.2f} {:>10.0f}  {}\n", c.ranks,
               1e3 * c.total(), 1e3 * c.compute, 1e3 * c.statistics, 1e3 * c.gradients, 1e3 * c.skew, 1e3 * c.update,
               samples / c.total(), c.largest());
  }
}

}  // namespace

ExitCode run_explain(const ExplainOptions& options) {
  const Job job;
  job.require_alike(options.command);
  const int cores = job.cores_offered();
  const Config config = job.load([&] {
    Config read = load_run_or_config(options.config, options.overrides);
    if (read.workers == 0) read.workers = std::max({cores, options.ranks, job.ranks()});
    return read;
  });
  MachineFigures figures = figures_of(options);
  if (options.measure) figures = measure_here(job, config, figures);
  if (!job.first()) return ExitCode::ok;
  const Explanation e = explain(config, options.ranks);
  if (!e.missing_variance.empty()) throw Error(e.missing_variance, ExitCode::usage);

  print_layers(e);
  fmt::print("\nparameters             {}\n", e.parameters);
  fmt::print("activation memory      about {} per worker (outputs and their gradients)\n",
             bytes_text(e.activation_bytes));
  fmt::print(
      "weight memory          about {} per machine (weights, gradient, optimizer; per device on GPUs), and {} of "
      "gradient per worker\n",
      bytes_text(e.weight_bytes), bytes_text(4 * e.parameters));
  const int workers = (e.workers + e.ranks - 1) / e.ranks, cores_each = std::max(1, cores / e.ranks);
  const int threads = config.threads > 0 ? config.threads : std::min(workers, cores_each);
  fmt::print("\nsizes                  {}\n", sizes_line(config, e.ranks, threads));
  fmt::print("length                 {} batches per epoch, {} updates in all\n", e.batches_per_epoch, e.steps);
  for (const std::string& line : e.unreached) fmt::print("warning                {}\n", line);
  fmt::print("\nmessages and bytes that a worker gives in one update:\n");
  print_traffic("statistics, forward", e.statistics_forward);
  print_traffic("statistics, backward", e.statistics_backward);
  print_traffic("gradients", e.gradients);
  if (options.measure || options.predict) print_prediction(config, figures);
  fmt::print("\n{}", kComparison);
  return ExitCode::ok;
}

}  // namespace syncbn::cli
