#include "train/explain/explain.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>
#include <mutex>
#include <string>

#include "data/catalog/catalog.hpp"
#include "data/dataset.hpp"
#include "syncbn/core/error.hpp"
#include "train/buckets.hpp"
#include "train/compute.hpp"
#include "train/experiment.hpp"
#include "train/probes/probes.hpp"

namespace syncbn {
namespace {

constexpr std::int64_t kFloat = 4, kDouble = 8;

/// The network with its additions and ReLUs that run inside a batch norm layer's sweep spelled out.
std::string type_of(const LayerSpec& layer, const Config& config) {
  std::string type = name_of(layer.type);
  if (layer.type == LayerType::batch_norm && config.norm.type == "renorm") type = "batch_renorm";
  if (layer.groups > 0) type += fmt::format(" ({} groups)", layer.groups);
  if (is_norm(layer.type) && layer.residual >= 0) type += " + add";
  if (layer.fused_relu) type += " + relu";
  return type;
}

std::string sample_shape(const Shape& shape) {
  std::string text;
  for (int i = 1; i < shape.rank(); ++i) text += fmt::format("{}{}", i == 1 ? "" : " x ", shape[i]);
  return text;
}

/// Buffers as long as the weights that the optimizer has: its state, and LAMB's direction of an update.
std::int64_t optimizer_buffers(const OptimizerOptions& options) {
  const auto states = static_cast<std::int64_t>(make_optimizer(options, {}, 0)->state_names().size());
  return states + (options.name == "lamb" ? 1 : 0);
}

void add_statistics(Explanation& e, const Model& model, std::int64_t batches) {
  for (const LayerSpec& layer : model.layers) {
    if (!shares_statistics(layer.type) || e.group == 1) continue;
    const std::int64_t channels = layer.output.c();
    // Whitening needs the products of a group's channels: covariances are symmetric, their gradients are not.
    const std::int64_t width = layer.type == LayerType::whitening ? channels / layer.groups : 1;
    e.statistics_forward.messages += batches;
    e.statistics_forward.bytes += batches * kDouble * (1 + channels + channels * (width + 1) / 2);
    e.statistics_backward.messages += batches;
    e.statistics_backward.bytes += batches * kDouble * (channels + channels * width);
  }
}

/// From the last layer to the first, a bucket is closed at the first layer that fills it. With statistics shared by all
/// workers, the gradients of gamma and beta are known from the statistics message and travel in no bucket.
void add_gradients(Explanation& e, const Model& model, std::int64_t bucket_bytes) {
  if (e.workers == 1) return;
  const bool norm_is_reduced = e.group == e.workers;
  std::map<int, std::int64_t, std::greater<>> bytes_of_layer;
  for (const ParameterSpec& p : model.parameters) {
    const bool shared = shares_statistics(model.layers[p.layer].type);
    if (p.kind == ParameterKind::weight_gain) continue;  // follows from the gradient of the weight
    if (!shared || !norm_is_reduced) bytes_of_layer[p.layer] += kFloat * p.count();
  }
  std::int64_t open = 0;
  for (const auto& [layer, bytes] : bytes_of_layer) {
    e.gradients.bytes += bytes;
    open += bytes;
    if (open < bucket_bytes) continue;
    ++e.gradients.messages;
    open = 0;
  }
  if (open > 0) ++e.gradients.messages;
}

void add_length(Explanation& e, const Config& config, const Model& model, std::int64_t images) {
  const std::int64_t batch = e.workers * e.batch_per_worker;
  if (config.data.train_limit > 0) images = std::min(images, config.data.train_limit);
  e.batches_per_epoch = batch_count(images, batch, config.data.drop_last);
  e.steps = update_count(config.train, e.batches_per_epoch);
  e.unreached = unreached_points(config, e.batches_per_epoch, e.steps);
  const std::vector<int> groups(static_cast<std::size_t>(e.workers / e.group), e.group);
  e.missing_variance = missing_variance(config, model, groups, images, e.batches_per_epoch, e.steps);
}

/// A million files take seconds to list.
DataShape folder_shape(const std::string& path) {
  static std::mutex mutex;
  static std::map<std::string, DataShape> known;
  const std::lock_guard lock(mutex);
  const auto found = known.find(path);
  if (found != known.end()) return found->second;
  const Dataset train = open_dataset("image-folder", path, Split::train);
  const Dataset test = open_dataset("image-folder", path, Split::test);
  return known[path] = {{1, train.channels(), 0, 0}, train.classes(), train.size(), test.size()};
}

/// Images before they are scaled; 0 x 0: of different sizes.
DataShape stored_shape(const std::string& kind, const std::string& path) {
  if (kind == "image-folder") return folder_shape(path);
  const DatasetFacts& facts = facts_of(kind);
  return {
      {1, facts.channels, facts.side, facts.side}, facts.label_classes.back(), facts.train_images, facts.test_images};
}

}  // namespace

std::int64_t scaled_image_size(const Config::Data& data) {
  constexpr std::int64_t kUsual = 224;
  return data.image_size == 0 && data.kind == "image-folder" ? kUsual : data.image_size;
}

DataShape data_shape(const Config::Data& data) {
  DataShape shape = stored_shape(data.kind, data.path);
  const std::int64_t size = scaled_image_size(data);
  if (size > 0) shape.image = {1, shape.image.c(), size, size};
  return shape;
}

Explanation explain(const Config& config, int ranks) {
  if (ranks < 1 || ranks > config.workers) {
    throw Error(fmt::format("{} workers cannot be spread over {} ranks; every rank hosts at least one worker",
                            config.workers, ranks),
                ExitCode::usage);
  }
  check_config(config);
  const DataShape data = data_shape(config.data);
  const Model model = make_model(model_options(config, data.image, data.classes));
  check_probes(config, model);

  Explanation e;
  e.workers = config.workers;
  e.ranks = ranks;
  e.batch_per_worker = config.batch_per_worker;
  e.global_batch = e.workers * e.batch_per_worker * config.train.accumulate;
  e.group = norm_group_size(config.workers, config.norm);
  if (e.group == 0) e.group = config.workers;  // as if on one machine
  e.bn_span = e.group * e.batch_per_worker;
  e.parameters = model.parameter_count();
  e.weight_bytes = kFloat * e.parameters * (2 + optimizer_buffers(config.optimizer));

  std::int64_t values = 0;
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    const LayerSpec& layer = model.layers[i];
    Explanation::Layer row{layer.name, type_of(layer, config), sample_shape(layer.output), 0};
    for (const ParameterSpec& p : model.parameters) {
      if (p.layer == static_cast<int>(i)) row.parameters += p.count();
    }
    for (const ParameterSpec& p : model.parameters) {
      // Every weight meets each place of its output channel once.
      if (p.layer != static_cast<int>(i) || p.kind != ParameterKind::weight) continue;
      e.multiply_adds += p.count() * (layer.output.elements() / p.dims[0]);
    }
    e.layers.push_back(std::move(row));
    values += layer.output.elements();
  }
  const auto value_bytes = static_cast<std::int64_t>(size_of(precision_of(config).type));
  e.activation_bytes = 2 * value_bytes * values * e.batch_per_worker;
  if (value_bytes < kFloat) e.weight_bytes += value_bytes * e.parameters;
  add_statistics(e, model, config.train.accumulate);
  add_gradients(e, model, bucket_bytes(config));
  add_length(e, config, model, data.train_images);
  return e;
}

}  // namespace syncbn
