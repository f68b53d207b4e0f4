#include "train/experiment.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "comm/rank_context.hpp"
#include "core/build_id.hpp"
#include "core/rounding.hpp"
#include "core/text.hpp"
#include "data/catalog/catalog.hpp"
#include "syncbn/core/error.hpp"
#include "train/explain/explain.hpp"
#include "train/probes/probes.hpp"

namespace syncbn {

namespace {

Augmentation make_augmentation(const Config::Data& data) {
  Augmentation a;
  a.image_size = scaled_image_size(data);
  a.crop_fraction = data.crop_fraction;
  a.random_resized_crop = data.random_resized_crop;
  a.crop_padding = data.crop_padding;
  a.horizontal_flip = data.horizontal_flip;
  a.binarize = data.binarize;
  if (data.binarize || !data.normalize) return a;
  const DatasetFacts& facts = facts_of(data.kind);
  a.mean = facts.mean;
  a.stddev = facts.stddev;
  return a;
}

NormSettings make_norm_settings(const World& world, const Config& config) {
  NormSettings norm;
  norm.options.eps = config.norm.eps;
  norm.options.cumulative = config.norm.momentum == "cumulative";
  if (!norm.options.cumulative) norm.options.momentum = parse_whole<double>(config.norm.momentum).value();
  norm.momentum_reference_batch = config.norm.momentum_reference_batch;
  norm.options.affine = config.norm.affine;
  norm.options.track_running_stats = config.norm.track_running_stats;
  if (config.norm.type == "renorm") {
    norm.renorm = RenormOptions{config.norm.renorm_r_max, config.norm.renorm_d_max, config.norm.renorm_start,
                                config.norm.renorm_full};
  }
  norm.whole_world = norm_groups(world, config.norm).size() == 1;
  return norm;
}

/// If statistics come from single samples, there is only one kind.
std::vector<std::string> eval_statistics_of(const Config& config) {
  return shares_statistics(config.norm.type) ? config.train.eval_statistics : std::vector<std::string>{"running"};
}

}  // namespace

std::int64_t Experiment::samples_in_batch(std::int64_t index) const {
  return std::min(micro_batch(), train_set->size() - index * micro_batch());
}

std::int64_t Experiment::samples_in_step(std::int64_t step) const {
  std::int64_t samples = 0;
  for (std::int64_t m = 0; m < config.train.accumulate; ++m) {
    samples += samples_in_batch((step * config.train.accumulate + m) % batches_per_epoch);
  }
  return samples;
}

bool Experiment::due(const std::string& every, std::int64_t step) const {
  if (every == "epoch") return epochs_after(step) > epochs_after(step - 1);
  const std::int64_t n = std::stoll(every);
  return n > 0 && step % n == 0;
}

std::vector<std::string> Experiment::eval_statistics() const {
  return eval_statistics_of(config);
}

std::int64_t Experiment::precise_batches() const {
  return std::min(batches_per_epoch, (config.train.precise_samples + micro_batch() - 1) / micro_batch());
}

LoaderOptions loader_options(const World& world, const Experiment& e) {
  LoaderOptions options;
  options.workers = world.workers();
  options.first_worker = world.first_worker();
  options.local_workers = world.local_workers();
  options.batch_per_worker = e.config.batch_per_worker;
  options.seed = e.config.seed;
  options.shuffle = e.config.data.shuffle;
  options.drop_last = e.config.data.drop_last;
  options.augmentation = e.augmentation;
  options.threads = e.config.data.threads;
  // A worker may take all batches of an update before another one of its thread takes its first.
  options.prefetch = std::max<int>(e.config.data.prefetch, static_cast<int>(e.config.train.accumulate));
  // Enough for all loading threads to be busy.
  options.prefetch = std::max(options.prefetch, (options.threads + options.local_workers - 1) / options.local_workers);
  return options;
}

std::int64_t update_count(const Config::Train& train, std::int64_t batches_per_epoch) {
  constexpr double kMaxBatches = 1e15;  // their numbers stay exact in any arithmetic
  const auto accumulate = static_cast<double>(train.accumulate);
  const double updates =
      train.steps > 0 ? static_cast<double>(train.steps)
                      : std::ceil(train.epochs * static_cast<double>(batches_per_epoch) / accumulate * kRounding);
  if (updates * accumulate > kMaxBatches) {
    throw Error(fmt::format("{} are more than 10^15 batches; train for less",
                            train.steps > 0 ? fmt::format("train.steps: {} updates", train.steps)
                                            : fmt::format("train.epochs: {} epochs", train.epochs)),
                ExitCode::usage);
  }
  return static_cast<std::int64_t>(updates);
}

std::vector<std::string> unreached_points(const Config& config, std::int64_t batches_per_epoch,
                                          std::int64_t total_steps) {
  const ScheduleOptions& schedule = config.schedule;
  const auto total = static_cast<double>(total_steps), accumulate = static_cast<double>(config.train.accumulate),
             batches = static_cast<double>(batches_per_epoch);
  const std::string end = fmt::format("the training ends after {}, {:.4g} epochs", counted(total_steps, "step"),
                                      total * accumulate / batches);
  std::vector<std::string> lines;
  std::vector<double> late;  // milestones up to 1 are fractions of the run, and always reached
  for (const double milestone : schedule.name == "step" ? schedule.milestones : std::vector<double>{}) {
    if (milestone > 1 && milestone >= total) late.push_back(milestone);
  }
  if (!late.empty())
    lines.push_back(fmt::format("schedule.milestones: {} {} never reached: {}", fmt::join(late, ", "),
                                late.size() == 1 ? "is" : "are", end));
  const auto warm_up = [&](const char* key, double value, double steps) {
    if (value > 0 && steps >= total)
      lines.push_back(fmt::format("{}: {}: the learning rate never gets to optimizer.lr: {}", key, value, end));
  };
  warm_up("schedule.warmup_steps", schedule.warmup_steps, schedule.warmup_steps);
  warm_up("schedule.warmup_epochs", config.warmup_epochs, config.warmup_epochs * batches / accumulate);
  return lines;
}

int norm_group_size(int workers, const Config::Norm& norm) {
  if (!shares_statistics(norm.type)) return 1;
  if (norm.group == "node") return 0;
  return norm.group == "all" ? workers : std::stoi(norm.group);
}

std::vector<int> norm_groups(const World& world, const Config::Norm& norm) {
  const detail::Topology& topology = world.context()->topology();
  const int size = norm_group_size(world.workers(), norm);
  std::vector<int> workers;
  for (const detail::IndexRange& group : size == 0 ? topology.by_node() : topology.groups(size))
    workers.push_back(group.size());
  return workers;
}

Communicator make_norm_group(const Worker& worker, const Config::Norm& norm) {
  const int size = norm_group_size(worker.world().workers(), norm);
  return size == 0 ? worker.node_group() : worker.group(size);
}

namespace {

/// With the images of these splits, and the network for them.
Experiment open_experiment(const World& world, const Config& config, const ops::Backend& backend,
                           const std::vector<Split>& splits, const std::vector<std::string>& classes = {}) {
  world.require_same("build", build_id());
  world.require_same("instruction set", backend.description());
  world.require_same("configuration", to_yaml(config));
  if (world.workers() != config.workers) {
    throw Error(fmt::format("{} workers are configured but the world has {}", config.workers, world.workers()),
                ExitCode::usage);
  }
  Experiment e;
  e.config = config;
  std::vector<std::string> fingerprints;
  for (const Split split : splits) {
    const bool train = split == Split::train;
    const Dataset all = open_dataset(config.data.kind, config.data.path, split, config.seed, classes);
    auto& set = train ? e.train_set : e.test_set;
    set = std::make_shared<const Dataset>(all.first(train ? config.data.train_limit : config.data.test_limit));
    fingerprints.push_back(fmt::format("{} {:016x}", train ? "train" : "test", set->fingerprint()));
  }
  e.data_fingerprint = fmt::format("{} {}", config.data.kind, fmt::join(fingerprints, ", "));
  world.require_same("data set", e.data_fingerprint);
  e.augmentation = make_augmentation(config.data);
  const Dataset& d = e.train_set ? *e.train_set : *e.test_set;
  e.pixel_values = pixel_values(d, e.augmentation);
  e.model = make_model(model_options(config, image_shape(d, e.augmentation), d.classes()));
  check_probes(config, e.model);
  e.norm = make_norm_settings(world, config);
  if (!e.train_set) return e;

  const std::int64_t batch = e.micro_batch();
  e.batches_per_epoch = batch_count(d.size(), batch, config.data.drop_last);
  if (e.batches_per_epoch == 0) {
    throw Error(
        fmt::format("{} training images are fewer than one global batch of {} with data.drop_last; use a smaller "
                    "batch_per_worker or fewer workers",
                    d.size(), batch),
        ExitCode::usage);
  }
  return e;
}

}  // namespace

Experiment make_evaluation(const World& world, const Config& config, const ops::Backend& backend,
                           const std::string& split, const std::vector<std::string>& classes) {
  std::vector<Split> splits = {split == "train" ? Split::train : Split::test};
  const std::vector<std::string> statistics = eval_statistics_of(config);
  if (splits[0] == Split::test && std::find(statistics.begin(), statistics.end(), "precise") != statistics.end())
    splits.insert(splits.begin(), Split::train);
  return open_experiment(world, config, backend, splits, classes);
}

Experiment make_experiment(const World& world, const Config& config, const ops::Backend& backend) {
  Experiment e = open_experiment(world, config, backend, {Split::train, Split::test});
  e.total_steps = update_count(config.train, e.batches_per_epoch);
  e.optimizer = config.optimizer;
  e.schedule = config.schedule;
  e.schedule.lr = scaled_learning_rate(config.lr, config.lr_scaling, e.micro_batch() * config.train.accumulate,
                                       config.lr_reference_batch);
  e.schedule.warmup_steps +=
      config.warmup_epochs * (static_cast<double>(e.batches_per_epoch) / static_cast<double>(config.train.accumulate));
  validate(e.schedule);
  return e;
}

std::string missing_variance(const Config& config, const Model& model, const std::vector<int>& groups,
                             std::int64_t images, std::int64_t batches_per_epoch, std::int64_t steps) {
  const auto sees_one_value = [](const LayerSpec& l) { return shares_statistics(l.type) && l.output.spatial() == 1; };
  const auto layer = std::find_if(model.layers.begin(), model.layers.end(), sees_one_value);
  if (layer == model.layers.end() || batches_per_epoch == 0) return "";
  const auto leaves_one = [&](std::int64_t batch) {
    return std::any_of(groups.begin(), groups.end(), [&, w = 0](int size) mutable {
      std::int64_t together = 0;
      for (const int end = w + size; w < end; ++w) together += slice_of(batch, config.workers, w).count;
      return together == 1;
    });
  };
  const std::int64_t full = std::min(config.workers * config.batch_per_worker, images);
  const std::int64_t last = std::min(full, images - (batches_per_epoch - 1) * full);
  const bool always = leaves_one(full), meets_last = steps * config.train.accumulate >= batches_per_epoch;
  if (!always && !(meets_last && leaves_one(last))) return "";
  return fmt::format(
      "layer '{}': with {}, a group of workers has one value per channel in the whole group, which has no variance; "
      "{}choose another batch_per_worker, number of workers or norm.group",
      layer->name,
      always ? "a batch of " + counted(full, "image")
             : fmt::format("the {} of an epoch's last batch", counted(last, "image")),
      always ? "" : "set data.drop_last=true, or ");
}

void require_variance(const World& world, const Experiment& e) {
  const std::string missing = missing_variance(e.config, e.model, norm_groups(world, e.config.norm),
                                               e.train_set->size(), e.batches_per_epoch, e.total_steps);
  if (!missing.empty()) throw Error(missing, ExitCode::usage);
}

}  // namespace syncbn
