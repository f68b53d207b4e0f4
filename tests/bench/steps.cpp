// Whole training steps of ResNet-20 against what its convolutions alone would take on the same cores, all of them busy,
// with local and with synchronized statistics. Alone: workers as threads of one process. Under mpirun: on all ranks, on
// half of them, and so on to one, which then has the cores of all.

#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <optional>

#include "bench/convolutions.hpp"
#include "bench/measure.hpp"
#include "bench/processes.hpp"
#include "ops/cpu/factories.hpp"
#include "syncbn/train/trainer.hpp"

namespace syncbn::bench {
namespace {

constexpr const char* kConfig = R"(
batch_per_worker: 1
data: {kind: builtin, crop_padding: 4, horizontal_flip: true, test_limit: 1}
model: {name: resnet20}
optimizer: {name: sgd, lr: 0.1, momentum: 0.9, weight_decay: 0.0001}
train: {eval_every: 0}
checkpoint: {every: 0, keep_best: false}
)";

/// Images per second of all cores, and of one core while it computes: the latter leaves out waiting, and what other
/// programs take.
struct Rate {
  double wall = 0, cpu = 0;
};

/// The convolutions alone, `n` images at a time; `in_step`: the workers wait for each other wherever a training with
/// synchronized statistics does, and exchange as little as that takes.
Rate convolution_rate(World& world, const Model& model, std::int64_t n, double seconds, bool in_step = false) {
  Rate rate;
  world.run([&](Worker& worker) {
    ConvolutionsOnly convolutions(model, n);
    const auto meet = [&] {
      if (!in_step) return;
      double value = 0;
      worker.all().all_reduce(std::span(&value, 1), Reduce::sum, {"between layers", 0});
    };
    convolutions.step(meet);
    const double images_of_core = static_cast<double>(n * world.local_workers()) / world.threads();
    double steps = std::max(1.0, std::round(seconds * 500 / images_of_core));
    worker.all().all_reduce(std::span(&steps, 1), Reduce::min, {"ready", 0});
    const double begin = wall_seconds(), cpu_begin = process_cpu_seconds();
    for (int i = 0; i < static_cast<int>(steps); ++i) convolutions.step(meet);
    worker.all().barrier({"done", 0});
    const double images = steps * static_cast<double>(n * worker.all().size());
    if (worker.local_index() == 0) {
      rate = {images / (wall_seconds() - begin), images / world.ranks() / (process_cpu_seconds() - cpu_begin)};
    }
  });
  return rate;
}

struct Setting {
  int workers, batch;
};

/// A setting on some of the ranks, and what was measured of it, block by block. `in_step`: what convolutions that wait
/// for each other reach of those that do not.
struct Row {
  Setting setting;
  int ranks;
  std::int64_t steps = 1;
  double cpu_of_start = 0;
  std::vector<double> local{}, synced{}, local_share{}, synced_share{}, in_step{}, cost{}, local_cpu{}, synced_cpu{};
};

class Steps {
 public:
  explicit Steps(const Arguments& arguments) : blocks_(arguments.quick ? 2 : 5), seconds_(arguments.quick ? 0.3 : 1.2) {
    for (int ranks = processes_.ranks(); ranks > 0; ranks /= 2) parts_.push_back(processes_.part(ranks));
    if (processes_.first())
      directory_ = (std::filesystem::temp_directory_path() / fmt::format("syncbn-bench-{}", getpid())).string();
    directory_ = ceiling_world_.broadcast(directory_);
  }
  ~Steps() {
    std::error_code ignored;
    if (processes_.first()) std::filesystem::remove_all(directory_, ignored);
  }

  void measure() {
    const std::int64_t batch = best_ceiling_batch();
    for (const Setting& setting : {Setting{4, 32}, Setting{4, 8}, Setting{4, 2}, Setting{64, 2}})
      for (const Part& part : parts_) rows_.push_back({setting, part.ranks()});
    for (Row& row : rows_) prepare(row);
    std::vector<double> ceiling;
    for (int block = 0; block < blocks_; ++block) {
      if (processes_.first()) fmt::print(stderr, "block {} of {}\n", block + 1, blocks_);
      for (Row& row : rows_) ceiling.push_back(measure(row, batch));
    }
    if (processes_.first()) print(batch, median(ceiling));
  }

  void validate() {
    Row row{{4, 2}, processes_.ranks()};
    const TrainResult local = train_once(row, "1", 3), synced = train_once(row, "all", 3);
    const bool good = local.steps == 3 && synced.steps == 3 && std::isfinite(synced.loss) &&
                      convolution_rate(ceiling_world_, model_, 2, 0.01).wall > 0;
    if (processes_.first()) fmt::print("steps: {}\n", good ? "valid" : "NOT VALID");
    if (!good) std::exit(1);
  }

 private:
  std::int64_t best_ceiling_batch() {
    std::int64_t best = 1;
    double best_rate = 0;
    for (const std::int64_t n : {1, 2, 8, 32}) {
      std::vector<double> rates;
      for (int i = 0; i < 3; ++i) rates.push_back(convolution_rate(ceiling_world_, model_, n, seconds_ / 3).wall);
      const double rate = ceiling_world_.max_over_ranks(median(rates));
      if (rate > best_rate) best = n, best_rate = rate;
    }
    return best;
  }

  /// Nothing on ranks that take no part.
  TrainResult train_once(const Row& row, const std::string& group, std::int64_t steps) {
    TrainResult result;
    for (const Part& part : parts_) {
      if (part.ranks() != row.ranks) continue;
      part.run([&] {
        World world = part.world(row.setting.workers);
        TrainRequest request;
        request.config = parse_config(
            kConfig, "benchmark",
            {fmt::format("workers={}", row.setting.workers), fmt::format("batch_per_worker={}", row.setting.batch),
             "norm.group=" + group, fmt::format("train.steps={}", steps), fmt::format("train.log_every={}", steps),
             fmt::format("threads={}", part.threads())});
        request.run_dir = fmt::format("{}/{}", directory_, runs_++);
        result = train(world, request);
      });
    }
    return result;
  }

  Rate training_rate(const Row& row, const std::string& group, std::int64_t steps) {
    const double begin = process_cpu_seconds();
    const TrainResult result = train_once(row, group, steps);
    const double images = static_cast<double>(row.setting.workers * row.setting.batch * (steps - 1)) / row.ranks;
    return {ceiling_world_.max_over_ranks(result.images_per_second),
            images / (process_cpu_seconds() - begin - row.cpu_of_start)};
  }

  void prepare(Row& row) {
    const double begin = process_cpu_seconds();
    train_once(row, "1", 1);
    row.cpu_of_start = process_cpu_seconds() - begin;
    const int images = row.setting.workers * row.setting.batch;
    row.steps = std::max<std::int64_t>(4, std::llround(seconds_ * training_rate(row, "1", 4).wall / images));
  }

  /// Images/s of the row's workers with nothing but convolutions, and messages where a synchronized training has them.
  double in_step_rate(const Row& row) {
    double rate = 0;
    for (const Part& part : parts_) {
      if (part.ranks() != row.ranks) continue;
      part.run([&] {
        World world = part.world(row.setting.workers);
        rate = convolution_rate(world, model_, row.setting.batch, seconds_, true).wall;
      });
    }
    return ceiling_world_.max_over_ranks(rate);
  }

  /// Gives the ceiling's images/s.
  double measure(Row& row, std::int64_t ceiling_batch) {
    const Rate top = convolution_rate(ceiling_world_, model_, ceiling_batch, seconds_);
    const Rate local = training_rate(row, "1", row.steps), synced = training_rate(row, "all", row.steps);
    row.in_step.push_back(in_step_rate(row) / top.wall);
    row.local.push_back(local.wall), row.synced.push_back(synced.wall);
    row.local_share.push_back(local.wall / top.wall), row.synced_share.push_back(synced.wall / top.wall);
    row.cost.push_back(local.wall / synced.wall - 1);
    row.local_cpu.push_back(local.cpu / top.cpu), row.synced_cpu.push_back(synced.cpu / top.cpu);
    return top.wall;
  }

  void print(std::int64_t batch, double ceiling) const {
    fmt::print(
        "ResNet-20, images/s, medians of {} blocks. Ceiling: {:.0f}, of the convolutions alone on all cores, {} images "
        "at a time.\nIn step: what these reach where workers wait for each other as in a synchronized training.\nCPU: "
        "the same share of the time that cores compute, without waiting.\n{:<16} {:<17} {:>6} {:>7}  "
        "{:>13} {:>13} {:>8} {:>11} {:>10} {:>10}\n",
        blocks_, ceiling, batch, "workers x batch", "ranks x threads", "local", "synced", "local/ceiling",
        "sync/ceiling", "in step", "sync costs", "local CPU", "sync CPU");
    for (const Row& row : rows_)
      fmt::print(
          "{:<16} {:<17} {:>6.0f} {:>7.0f}  {:>11.1f} % {:>11.1f} % {:>6.1f} % {:>9.1f} % {:>8.1f} % {:>8.1f} %\n",
          fmt::format("{} x {}", row.setting.workers, row.setting.batch),
          fmt::format("{} x {}", row.ranks, processes_.ranks() * processes_.threads() / row.ranks), median(row.local),
          median(row.synced), 100 * median(row.local_share), 100 * median(row.synced_share), 100 * median(row.in_step),
          100 * median(row.cost), 100 * median(row.local_cpu), 100 * median(row.synced_cpu));
  }

  const Processes processes_;
  const int blocks_;
  const double seconds_;
  World ceiling_world_ = processes_.world(processes_.ranks() * processes_.threads());
  std::vector<Part> parts_;
  std::vector<Row> rows_;
  std::string directory_;
  int runs_ = 0;
  const Model model_ = make_model(model_options(parse_config(kConfig, "benchmark", {}), {1, 3, 32, 32}, 10));
};

}  // namespace
}  // namespace syncbn::bench

int main(int argc, char** argv) {
  const syncbn::bench::Arguments arguments(argc, argv);
  syncbn::bench::Steps steps(arguments);
  if (arguments.validate) {
    steps.validate();
  } else {
    steps.measure();
  }
}
