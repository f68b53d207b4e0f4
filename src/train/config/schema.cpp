#include "train/config/schema.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <limits>

#include "data/catalog/catalog.hpp"
#include "nn/models/models.hpp"
#include "optim/options.hpp"
#include "optim/ranges.hpp"

namespace syncbn::detail {
namespace {

Rule boolean() {
  return {.form = Form::boolean};
}
Rule text() {
  return {.form = Form::text};
}
Rule one_of(std::vector<std::string> words) {
  return {.form = Form::word, .words = std::move(words)};
}

constexpr double kNoLimit = std::numeric_limits<double>::infinity();

Rule integer(double min, double max = kNoLimit, std::vector<std::string> words = {}) {
  return {.form = Form::integer, .words = std::move(words), .range = {.min = min, .max = max}};
}
Rule number(const Range& range, std::vector<std::string> words = {}) {
  return {.form = Form::number, .words = std::move(words), .range = range};
}
Rule number(double min, double max = kNoLimit) {
  return number({.min = min, .max = max});
}
Rule above(double min, double max = kNoLimit) {
  return number({.min = min, .max = max, .above_min = true});
}
Rule below(double min, double max) {
  return number({.min = min, .max = max, .below_max = true});
}

std::vector<std::string> models() {
  std::vector<std::string> names = model_names();
  names.push_back("layers");
  return names;
}

std::vector<std::string> probes() {
  std::vector<std::string> names = probe_names();
  names.push_back("all");
  return names;
}

template <class Wanted>
std::vector<std::string> only(std::vector<std::string> names, Wanted wanted) {
  std::erase_if(names, [&](const std::string& name) { return !wanted(name); });
  return names;
}

Use with(std::string key, std::vector<std::string> values) {
  return {.read_with = {{std::move(key), std::move(values)}}};
}
Use with_shared_statistics() {
  return with("norm.type", only(norm_types(), [](const std::string& type) { return shares_statistics(type); }));
}
Use with_running_statistics() {
  return with("norm.track_running_stats", {"true"});
}
Use with_norm_layers() {
  return with("norm.type", only(norm_types(), has_norm_layers));
}
Use with_resnets() {
  return with("model.name", only(model_names(), [](const std::string& name) { return name.starts_with("resnet"); }));
}

constexpr double kMaxWorkers = 65536;
constexpr double kMaxBatch = 1 << 24;
const Use kRunOnly{.run_only = true};
const Use kZeroIsWord{.zero_is_word = true};

/// A run-only key that is in use if `key` has one of `values`.
Use run_only_with(std::string key, std::vector<std::string> values) {
  return {.run_only = true, .read_with = {{std::move(key), std::move(values)}}};
}

using C = Config;

std::vector<Key<Config>> make_config_schema() {
  return {
      {"seed", [](C& c) -> Field { return &c.seed; }, integer(0), "every random choice follows from it"},
      {"workers", [](C& c) -> Field { return &c.workers; }, integer(1, kMaxWorkers, {"auto"}),
       "data-parallel workers of the experiment, on any number of ranks; auto: one per core that the launch offers"},
      {"batch_per_worker", [](C& c) -> Field { return &c.batch_per_worker; }, integer(1, kMaxBatch),
       "samples of a worker in one batch; global batch = workers x batch_per_worker"},
      {"label_smoothing", [](C& c) -> Field { return &c.label_smoothing; }, below(0, 1),
       "share of the target that is spread over all classes"},

      {"norm.type", [](C& c) -> Field { return &c.norm.type; }, one_of(norm_types()),
       "normalization layer: by statistics of the batch (batch, renorm, whitening) or of single samples (group, layer, "
       "instance), or of the weights instead (weight)"},
      {"norm.group", [](C& c) -> Field { return &c.norm.group; }, integer(1, kMaxWorkers, {"all", "node"}),
       "consecutive workers that share batch statistics; 1: local, all: synchronized, node: those of a host; running "
       "statistics, for evaluation, are the plain mean of those of all groups",
       with_shared_statistics()},
      {"norm.eps", [](C& c) -> Field { return &c.norm.eps; }, number(0), "added to the variance", with_norm_layers()},
      {"norm.momentum", [](C& c) -> Field { return &c.norm.momentum; }, number({.min = 0, .max = 1}, {"cumulative"}),
       "weight of the new value in the running statistics; cumulative: plain mean over all batches",
       with_running_statistics()},
      {"norm.renorm_r_max", [](C& c) -> Field { return &c.norm.renorm_r_max; }, number(1),
       "renorm: bound of batch std / running std, and of its inverse", with("norm.type", {"renorm"})},
      {"norm.renorm_d_max", [](C& c) -> Field { return &c.norm.renorm_d_max; }, number(0),
       "renorm: bound of the distance of the means, in running std", with("norm.type", {"renorm"})},
      {"norm.renorm_start", [](C& c) -> Field { return &c.norm.renorm_start; }, number(0, 1),
       "renorm: plain batch normalization up to this share of the run", with("norm.type", {"renorm"})},
      {"norm.renorm_full", [](C& c) -> Field { return &c.norm.renorm_full; }, number(0, 1),
       "renorm: the bounds grow from there on, and are full at this share", with("norm.type", {"renorm"})},
      {"norm.groups", [](C& c) -> Field { return &c.norm.groups; }, integer(1, 1 << 20),
       "group: groups of channels; fewer where they do not divide the channels or leave a group under 2 channels or 16 "
       "values",
       with("norm.type", {"group"})},
      {"norm.group_channels", [](C& c) -> Field { return &c.norm.group_channels; }, integer(1, 256),
       "whitening: channels that are whitened together; fewer where it does not divide the channels",
       with("norm.type", {"whitening"})},
      {"norm.momentum_reference_batch", [](C& c) -> Field { return &c.norm.momentum_reference_batch; }, integer(0),
       "global batch for which norm.momentum is meant: others decay alike per sample; 0: alike per step",
       Use{.read_with = with_running_statistics().read_with, .zero_is_word = true}},
      {"norm.affine", [](C& c) -> Field { return &c.norm.affine; }, boolean(), "learn gamma and beta",
       with_norm_layers()},
      {"norm.track_running_stats", [](C& c) -> Field { return &c.norm.track_running_stats; }, boolean(),
       "keep running statistics for evaluation", with_shared_statistics()},
      {"norm.position", [](C& c) -> Field { return &c.norm.position; }, one_of({"before", "after"}),
       "before or after the activation", with_norm_layers()},

      {"data.kind", [](C& c) -> Field { return &c.data.kind; }, one_of(dataset_kinds()),
       "data set; image-folder: your own pictures, data.path/train/CLASS/*.jpg and data.path/val/CLASS/*.jpg (or "
       ".png)"},
      {"data.path", [](C& c) -> Field { return &c.data.path; }, text(),
       "folder with the files under their official names; empty: where `syncbn data get` puts them",
       run_only_with("data.kind", only(dataset_kinds(), [](const std::string& kind) { return kind != "builtin"; }))},
      {"data.image_size", [](C& c) -> Field { return &c.data.image_size; }, integer(0, 4096),
       "height and width to which images are scaled; 0: the data set's own, 224 of an image-folder", kZeroIsWord},
      {"data.crop_fraction", [](C& c) -> Field { return &c.data.crop_fraction; }, above(0, 1),
       "scaled images show their middle, this share of the shorter side; 0.875: 224 of 256 pixels"},
      {"data.random_resized_crop", [](C& c) -> Field { return &c.data.random_resized_crop; }, boolean(),
       "training images are a random part, 8 to 100 % of the area, scaled"},
      {"data.train_limit", [](C& c) -> Field { return &c.data.train_limit; }, integer(0),
       "first n training images only; 0: all", kZeroIsWord},
      {"data.test_limit", [](C& c) -> Field { return &c.data.test_limit; }, integer(0),
       "first n test images only; 0: all", kZeroIsWord},
      {"data.crop_padding", [](C& c) -> Field { return &c.data.crop_padding; }, integer(0, 64),
       "random crop after padding by this many pixels; 0: none"},
      {"data.horizontal_flip", [](C& c) -> Field { return &c.data.horizontal_flip; }, boolean(),
       "mirror half of the training images"},
      {"data.binarize", [](C& c) -> Field { return &c.data.binarize; }, boolean(), "pixels become 0 or 1"},
      {"data.normalize", [](C& c) -> Field { return &c.data.normalize; }, boolean(),
       "by the data set's mean and standard deviation"},
      {"data.shuffle", [](C& c) -> Field { return &c.data.shuffle; }, boolean(),
       "a new order in every epoch; without: that of the files (of an image-folder the classes take turns)"},
      {"data.drop_last", [](C& c) -> Field { return &c.data.drop_last; }, boolean(),
       "leave out an epoch's last batch if it is not full"},
      {"data.prefetch", [](C& c) -> Field { return &c.data.prefetch; }, integer(1, 1024),
       "global batches that are loaded ahead", kRunOnly},
      {"data.threads", [](C& c) -> Field { return &c.data.threads; }, integer(1, 1024),
       "threads of a rank that load and augment; more than 1 pay where pictures are decoded", kRunOnly},

      {"model.name", [](C& c) -> Field { return &c.model.name; }, one_of(models()),
       "a ready model, or a list of your own (layers); for images below 64 pixels resnet18/34/50 have another stem and "
       "vgg another classifier, without torchvision's weights"},
      {"model.layers",
       [](C& c) -> Field { return &c.model.layers; },
       {.form = Form::layers},
       "with model.name = layers: a list of {type: conv2d, out: 16, kernel: 3, ...}",
       with("model.name", {"layers"})},
      {"model.init", [](C& c) -> Field { return &c.model.init; }, one_of(init_names()),
       "initial weights (default: the model's own)"},
      {"model.init_std", [](C& c) -> Field { return &c.model.init_std; }, above(0), "of the gaussian",
       with("model.init", {"gaussian"})},
      {"model.hidden", [](C& c) -> Field { return &c.model.hidden; }, integer(1, 1e6), "mlp: widths of hidden layers",
       with("model.name", {"mlp"})},
      {"model.activation", [](C& c) -> Field { return &c.model.activation; }, one_of(activation_names()), "mlp, lenet",
       with("model.name", {"mlp", "lenet"})},
      {"model.dropout", [](C& c) -> Field { return &c.model.dropout; }, below(0, 1),
       "probability before the classifier, of ready models; vgg at 224 pixels: 0 stands for its own 0.5",
       with("model.name", model_names())},
      {"model.zero_init_residual", [](C& c) -> Field { return &c.model.zero_init_residual; }, boolean(),
       "resnet: the last gamma of every block starts at 0", with_resnets()},
      {"model.weights", [](C& c) -> Field { return &c.model.weights; }, text(),
       "start from these weights and running statistics, not at random: a .safetensors file (f16, bf16, f32, f64), "
       "the folder of a run or checkpoint, or RUN/best or RUN/last, which are checkpoints of that run"},
      {"model.weights_except", [](C& c) -> Field { return &c.model.weights_except; }, text(),
       "tensors, by name or pattern, that start at random all the same ([\"fc.*\"], say, for other classes)",
       with("model.weights", {})},

      {"optimizer.name", [](C& c) -> Field { return &c.optimizer.name; }, one_of(optimizer_names()), "update rule"},
      {"optimizer.lr", [](C& c) -> Field { return &c.lr; }, number(ranges::kLearningRate),
       "learning rate (the peak of the schedule)"},
      {"optimizer.lr_scaling", [](C& c) -> Field { return &c.lr_scaling; }, one_of(lr_scaling_names()),
       "with global batch / lr_reference_batch"},
      {"optimizer.lr_reference_batch", [](C& c) -> Field { return &c.lr_reference_batch; }, integer(1),
       "global batch for which optimizer.lr is meant", with("optimizer.lr_scaling", {"linear", "sqrt"})},
      {"optimizer.momentum", [](C& c) -> Field { return &c.optimizer.momentum; }, number(ranges::kMomentum),
       "sgd, lars", with("optimizer.name", {"sgd", "lars"})},
      {"optimizer.nesterov", [](C& c) -> Field { return &c.optimizer.nesterov; }, boolean(), "sgd",
       with("optimizer.name", {"sgd"})},
      {"optimizer.beta1", [](C& c) -> Field { return &c.optimizer.beta1; }, number(ranges::kBeta), "adam, adamw, lamb",
       with("optimizer.name", {"adam", "adamw", "lamb"})},
      {"optimizer.beta2", [](C& c) -> Field { return &c.optimizer.beta2; }, number(ranges::kBeta), "adam, adamw, lamb",
       with("optimizer.name", {"adam", "adamw", "lamb"})},
      {"optimizer.eps", [](C& c) -> Field { return &c.optimizer.eps; }, number(ranges::kEps),
       "adam, adamw, lamb, adagrad, lars", with("optimizer.name", {"adagrad", "adam", "adamw", "lars", "lamb"})},
      {"optimizer.weight_decay", [](C& c) -> Field { return &c.optimizer.weight_decay; }, number(ranges::kWeightDecay),
       "L2 (sgd, adagrad, adam, lars) or decoupled (adamw, lamb)"},
      {"optimizer.decay_norm_and_bias", [](C& c) -> Field { return &c.optimizer.decay_norm_and_bias; }, boolean(),
       "weight decay covers gamma, beta and biases too",
       Use{.read_with = {{"optimizer.weight_decay"}, {"optimizer.name", {"lars", "lamb"}}}}},
      {"optimizer.trust_coefficient", [](C& c) -> Field { return &c.optimizer.trust_coefficient; },
       number(ranges::kTrustCoefficient), "lars", with("optimizer.name", {"lars"})},
      {"optimizer.clip_norm", [](C& c) -> Field { return &c.clip_norm; }, number(0),
       "largest global norm of the gradient; 0: off", kZeroIsWord},

      {"schedule.name", [](C& c) -> Field { return &c.schedule.name; }, one_of(schedule_names()),
       "course of the learning rate"},
      {"schedule.milestones", [](C& c) -> Field { return &c.schedule.milestones; }, number(ranges::kMilestone),
       "step: fractions of the run below 1, or numbers of steps above 1", with("schedule.name", {"step"})},
      {"schedule.gamma", [](C& c) -> Field { return &c.schedule.gamma; }, number(ranges::kGamma),
       "step: factor per milestone", with("schedule.name", {"step"})},
      {"schedule.power", [](C& c) -> Field { return &c.schedule.power; }, number(ranges::kPower),
       "polynomial: exponent", with("schedule.name", {"polynomial"})},
      {"schedule.final_fraction", [](C& c) -> Field { return &c.schedule.final_fraction; },
       number(ranges::kFinalFraction), "cosine, polynomial: rate at the end / lr",
       with("schedule.name", {"cosine", "polynomial"})},
      {"schedule.one_cycle_start", [](C& c) -> Field { return &c.schedule.one_cycle_start; },
       number(ranges::kOneCycleStart), "one_cycle: fraction of the run that rises",
       with("schedule.name", {"one_cycle"})},
      {"schedule.one_cycle_div", [](C& c) -> Field { return &c.schedule.one_cycle_div; }, number(ranges::kOneCycleDiv),
       "one_cycle: lr / rate at the start", with("schedule.name", {"one_cycle"})},
      {"schedule.one_cycle_final_div", [](C& c) -> Field { return &c.schedule.one_cycle_final_div; },
       number(ranges::kOneCycleDiv), "one_cycle: rate at the start / rate at the end",
       with("schedule.name", {"one_cycle"})},
      {"schedule.warmup_steps", [](C& c) -> Field { return &c.schedule.warmup_steps; }, number(ranges::kWarmupSteps),
       "steps of linear warm-up before the schedule"},
      {"schedule.warmup_epochs", [](C& c) -> Field { return &c.warmup_epochs; }, number(0),
       "the same in epochs (give one of the two)"},
      {"schedule.warmup_start", [](C& c) -> Field { return &c.schedule.warmup_start; }, number(ranges::kWarmupStart),
       "rate at the start of the warm-up / lr",
       Use{.read_with = {{"schedule.warmup_steps"}, {"schedule.warmup_epochs"}}}},

      {"train.epochs", [](C& c) -> Field { return &c.train.epochs; }, above(0, 1e15),
       "length of the run; fractions are fine; given by a study or on the command line it replaces a train.steps from "
       "before it",
       Use{.replaces = "train.steps"}},
      {"train.steps", [](C& c) -> Field { return &c.train.steps; }, integer(0, 1e15),
       "length in updates; above 0 it counts instead of train.epochs", kZeroIsWord},
      {"train.accumulate", [](C& c) -> Field { return &c.train.accumulate; }, integer(1, 65536), "batches per update"},
      {"train.eval_every", [](C& c) -> Field { return &c.train.eval_every; }, integer(0, 1e15, {"epoch"}),
       "epoch, or a number of steps; 0: at the end only", kZeroIsWord},
      {"train.eval_split", [](C& c) -> Field { return &c.train.eval_split; }, one_of({"test", "train"}),
       "images to evaluate on, which name the results: test_accuracy or train_accuracy"},
      {"train.eval_statistics", [](C& c) -> Field { return &c.train.eval_statistics; },
       one_of({"running", "precise", "batch"}),
       "list of what evaluations normalize with: running averages, precise (of training images, by the weights as "
       "they are), the batch's own; the first gives the accuracy, the others are reported besides",
       with_shared_statistics()},
      {"train.precise_samples", [](C& c) -> Field { return &c.train.precise_samples; }, integer(1, 1e15),
       "training images for precise statistics, in whole global batches, all at most",
       with("train.eval_statistics", {"precise"})},
      {"train.log_every", [](C& c) -> Field { return &c.train.log_every; }, integer(1),
       "steps per line of metrics.jsonl", kRunOnly},

      {"probes.names", [](C& c) -> Field { return &c.probes.names; }, one_of(probes()),
       "what to watch besides, into probes.jsonl: noise of the batch statistics, gradient noise scale, percentiles and "
       "saturation of layer inputs, norms of weights, gradients and updates, shift of layer inputs by an update",
       kRunOnly},
      {"probes.every", [](C& c) -> Field { return &c.probes.every; }, integer(1), "steps from one look to the next",
       run_only_with("probes.names", {})},
      {"probes.layers", [](C& c) -> Field { return &c.probes.layers; }, text(),
       "activations, shift: layers whose inputs to watch, names or patterns with * and ?; empty: all (syncbn explain "
       "lists the names)",
       run_only_with("probes.names", {"activations", "shift", "all"})},
      {"probes.units", [](C& c) -> Field { return &c.probes.units; }, integer(1, 4096),
       "activations: inputs of a layer to look at, at most, in as many samples as make up 4096 values",
       run_only_with("probes.names", {"activations", "all"})},

      {"checkpoint.every", [](C& c) -> Field { return &c.checkpoint.every; }, integer(0, 1e15, {"epoch"}),
       "epoch, or a number of steps; 0: at the end and on signals only", kRunOnly},
      {"checkpoint.keep", [](C& c) -> Field { return &c.checkpoint.keep; }, integer(1, 1e6), "the last k", kRunOnly},
      {"checkpoint.keep_best", [](C& c) -> Field { return &c.checkpoint.keep_best; }, boolean(),
       "keep the best one besides", kRunOnly},
      {"output.dir", [](C& c) -> Field { return &c.output.dir; }, text(),
       "run directory; {name} is the name of the configuration", kRunOnly},
      {"output.tensorboard", [](C& c) -> Field { return &c.output.tensorboard; }, boolean(),
       "write the metrics as TensorBoard events into the run directory, too", kRunOnly},

      {"reduction", [](C& c) -> Field { return &c.reduction; }, one_of({"ordered", "native"}),
       "order of sums between ranks (ordered: the same bits on any number of them; native: MPI_Allreduce's own)"},
      {"threads", [](C& c) -> Field { return &c.threads; }, integer(0, kMaxWorkers, {"auto"}),
       "compute threads of a rank, which share its workers; auto: its share of the cores", kRunOnly},
      {"overlap", [](C& c) -> Field { return &c.overlap; }, boolean(), "reduce gradients while backward runs",
       kRunOnly},
      {"cuda_graphs", [](C& c) -> Field { return &c.cuda_graphs; }, boolean(),
       "device: cuda, on one rank: capture forward and backward passes once, then start each by one call", kRunOnly},
      {"bucket_kib", [](C& c) -> Field { return &c.bucket_kib; }, integer(1, 1 << 20, {"auto"}),
       "size of a gradient bucket; auto: 256, on cuda 8192", kRunOnly},
      {"timeout_s", [](C& c) -> Field { return &c.timeout_s; }, above(0, 1e6),
       "seconds that a worker waits for another before the job is ended", kRunOnly},
      {"device", [](C& c) -> Field { return &c.device; }, one_of({"cpu", "cuda"}), "what computes"},
      {"precision", [](C& c) -> Field { return &c.precision; }, one_of({"float32", "tf32", "bfloat16", "float16"}),
       "device: cuda: of activations, their gradients and the factors of products; tf32: of these factors alone; "
       "float16: with dynamic loss "
       "scaling. "
       "Weights, gradients of weights, statistics and the optimizer are float32 always"},
  };
}

using L = LayerConfig;

std::vector<LayerKey> make_layer_schema() {
  return {
      {{"type", [](L& l) -> Field { return &l.type; }, one_of(layer_type_names()),
        "what the layer computes; norm: what norm.type says"}},
      {{"name", [](L& l) -> Field { return &l.name; }, text(), "default: type and position"}},
      {{"from", [](L& l) -> Field { return &l.from; }, text(),
        "name of the input layer (default: the one before; input: the images); add: of the other input, needed"}},
      {{"out", [](L& l) -> Field { return &l.out; }, integer(1, 1 << 20), "channels or features"},
       {"conv2d", "linear"}},
      {{"kernel", [](L& l) -> Field { return &l.kernel; }, integer(1, 1024), "width and height of the window"},
       {"conv2d", "max_pool", "avg_pool"}},
      {{"stride", [](L& l) -> Field { return &l.stride; }, integer(1, 1024),
        "of the window; default: 1, of a pool its kernel"},
       {},
       {"conv2d", "max_pool", "avg_pool"}},
      {{"padding", [](L& l) -> Field { return &l.padding; }, integer(0, 1024), "on every side"},
       {},
       {"conv2d", "max_pool", "avg_pool"}},
      {{"bias", [](L& l) -> Field { return &l.bias; }, boolean(), "add a learned bias"}, {}, {"conv2d", "linear"}},
      {{"p", [](L& l) -> Field { return &l.p; }, below(0, 1), "probability of a zero"}, {}, {"dropout"}},
      {{"slope", [](L& l) -> Field { return &l.slope; }, number(0, 1), "factor below zero"}, {}, {"leaky_relu"}},
  };
}

}  // namespace

const std::vector<Key<Config>>& config_schema() {
  static const std::vector<Key<Config>> schema = make_config_schema();
  return schema;
}

const std::vector<LayerKey>& layer_schema() {
  static const std::vector<LayerKey> schema = make_layer_schema();
  return schema;
}

Use use_of(const std::string& key) {
  for (const Key<Config>& known : config_schema()) {
    if (known.name == key) return known.use;
  }
  return {};
}

bool contend(const std::string& a, const std::string& b) {
  return a == b || use_of(a).replaces == b || use_of(b).replaces == a;
}

std::string describe(const Rule& rule) {
  switch (rule.form) {
    case Form::boolean:
      return "true or false";
    case Form::text:
      return "text";
    case Form::layers:
      return "a list of layers";
    case Form::word:
      return (rule.words.size() > 1 ? "one of " : "") + fmt::format("{}", fmt::join(rule.words, ", "));
    case Form::integer:
    case Form::number:
      break;
  }
  const std::string range = rule.range.str();
  std::string out = (rule.form == Form::integer ? "an integer" : "a number") + (range.empty() ? "" : " " + range);
  if (!rule.words.empty()) out += fmt::format(", or {}", fmt::join(rule.words, " or "));
  return out;
}

}  // namespace syncbn::detail
