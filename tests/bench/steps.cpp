// Whole training steps of ResNet-20 against what its convolutions alone would take on the same cores, all of them busy,
// with local and with synchronized statistics. Runs alone (workers as threads) or under mpirun, where every rank takes
// its share of the workers and of the cores.

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

/// The convolutions alone, `n` images at a time.
Rate convolution_rate(World& world, const Model& model, std::int64_t n, double seconds) {
  Rate rate;
  world.run([&](Worker& worker) {
    ConvolutionsOnly convolutions(model, n);
    convolutions.step();
    double steps = std::max(1.0, std::round(seconds * 500 / static_cast<double>(n)));
    worker.all().all_reduce(std::span(&steps, 1), Reduce::min, {"ready", 0});
    const double begin = wall_seconds(), cpu_begin = process_cpu_seconds();
    for (int i = 0; i < static_cast<int>(steps); ++i) convolutions.step();
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

class Steps {
 public:
  explicit Steps(const Arguments& arguments) : blocks_(arguments.quick ? 2 : 5), seconds_(arguments.quick ? 0.3 : 1.2) {
    ceiling_world_.emplace(processes_.world(processes_.ranks() * processes_.threads()));
    if (processes_.first())
      directory_ = (std::filesystem::temp_directory_path() / fmt::format("syncbn-bench-{}", getpid())).string();
    directory_ = ceiling_world_->broadcast(directory_);
  }
  ~Steps() {
    std::error_code ignored;
    if (processes_.first()) std::filesystem::remove_all(directory_, ignored);
  }

  void measure() {
    const std::int64_t batch = best_ceiling_batch();
    if (processes_.first()) {
      fmt::print(
          "ResNet-20, {} ranks x {} threads: images/s, medians of {} blocks. Ceiling: the convolutions alone, {} "
          "images at "
          "a time; CPU: the same share of the time that cores compute, without waiting.\n",
          processes_.ranks(), processes_.threads(), blocks_, batch);
      fmt::print("{:<16} {:>8} {:>8} {:>8}  {:>13} {:>13} {:>12} {:>11} {:>11}\n", "workers x batch", "ceiling",
                 "local", "synced", "local/ceiling", "sync/ceiling", "sync costs", "local CPU", "sync CPU");
    }
    for (const Setting& s : {Setting{4, 32}, Setting{4, 8}, Setting{4, 2}, Setting{64, 2}}) measure(s, batch);
  }

  void validate() {
    const TrainResult local = train_once({4, 2}, "1", 3), synced = train_once({4, 2}, "all", 3);
    const bool good = local.steps == 3 && synced.steps == 3 && std::isfinite(synced.loss) &&
                      convolution_rate(*ceiling_world_, model_, 2, 0.01).wall > 0;
    if (processes_.first()) fmt::print("steps: {}\n", good ? "valid" : "NOT VALID");
    if (!good) std::exit(1);
  }

 private:
  std::int64_t best_ceiling_batch() {
    std::int64_t best = 1;
    double best_rate = 0;
    for (const std::int64_t n : {1, 2, 8, 32}) {
      std::vector<double> rates;
      for (int i = 0; i < 3; ++i) rates.push_back(convolution_rate(*ceiling_world_, model_, n, seconds_ / 3).wall);
      const double rate = ceiling_world_->max_over_ranks(median(rates));
      if (rate > best_rate) best = n, best_rate = rate;
    }
    return best;
  }

  TrainResult train_once(const Setting& s, const std::string& group, std::int64_t steps) {
    World world = processes_.world(s.workers);
    TrainRequest request;
    request.config =
        parse_config(kConfig, "benchmark",
                     {fmt::format("workers={}", s.workers), fmt::format("batch_per_worker={}", s.batch),
                      "norm.group=" + group, fmt::format("train.steps={}", steps),
                      fmt::format("train.log_every={}", steps), fmt::format("threads={}", processes_.threads())});
    request.run_dir = fmt::format("{}/{}", directory_, runs_++);
    return train(world, request);
  }

  Rate training_rate(const Setting& s, const std::string& group, std::int64_t steps, double cpu_of_start) {
    const double begin = process_cpu_seconds();
    const TrainResult result = train_once(s, group, steps);
    const double images = static_cast<double>(s.workers * s.batch * (steps - 1)) / processes_.ranks();
    return {ceiling_world_->max_over_ranks(result.images_per_second),
            images / (process_cpu_seconds() - begin - cpu_of_start)};
  }

  void measure(const Setting& s, std::int64_t ceiling_batch) {
    const double begin = process_cpu_seconds();
    train_once(s, "1", 1);
    const double cpu_of_start = process_cpu_seconds() - begin;
    const Rate first = training_rate(s, "1", 4, cpu_of_start);
    const auto steps = std::max<std::int64_t>(4, std::llround(seconds_ * first.wall / (s.workers * s.batch)));
    std::vector<double> ceiling, local, synced, local_share, share, cost, local_cpu, synced_cpu;
    for (int b = 0; b < blocks_; ++b) {
      const Rate top = convolution_rate(*ceiling_world_, model_, ceiling_batch, seconds_);
      const Rate alone = training_rate(s, "1", steps, cpu_of_start);
      const Rate together = training_rate(s, "all", steps, cpu_of_start);
      ceiling.push_back(top.wall), local.push_back(alone.wall), synced.push_back(together.wall);
      local_share.push_back(alone.wall / top.wall), share.push_back(together.wall / top.wall);
      cost.push_back(alone.wall / together.wall - 1);
      local_cpu.push_back(alone.cpu / top.cpu), synced_cpu.push_back(together.cpu / top.cpu);
    }
    if (!processes_.first()) return;
    fmt::print("{:<16} {:>8.0f} {:>8.0f} {:>8.0f}  {:>11.1f} % {:>11.1f} % {:>10.1f} % {:>9.1f} % {:>9.1f} %\n",
               fmt::format("{} x {}", s.workers, s.batch), median(ceiling), median(local), median(synced),
               100 * median(local_share), 100 * median(share), 100 * median(cost), 100 * median(local_cpu),
               100 * median(synced_cpu));
    std::fflush(stdout);
  }

  Processes processes_;
  int blocks_;
  double seconds_;
  std::optional<World> ceiling_world_;
  std::string directory_;
  int runs_ = 0;
  Model model_ = make_model(model_options(parse_config(kConfig, "benchmark", {}), {1, 3, 32, 32}, 10));
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
