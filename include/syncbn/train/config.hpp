#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "syncbn/nn/model.hpp"
#include "syncbn/optim/optimizer.hpp"
#include "syncbn/optim/schedule.hpp"

namespace syncbn {

/// Everything that defines an experiment, plus the few keys that only say how it is run. Defaults here are the
/// documented defaults. Keys of the YAML file are the member paths (`norm.eps`); the schema is in
/// src/train/config/schema.cpp.
struct Config {
  // ---- the experiment ----
  std::uint64_t seed = 1;
  int workers = 0;  ///< W; 0 = auto: one per core that the launch offers
  std::int64_t batch_per_worker = 32;

  struct Norm {
    std::string type = "batch";  ///< see norm_types()
    std::string group = "all";   ///< 1, k, all, node
    double eps = 1e-5;
    std::string momentum = "0.1";               ///< number in [0, 1], or cumulative
    std::int64_t momentum_reference_batch = 0;  ///< global batch for which momentum is meant; 0: decay per step
    double renorm_r_max = 3, renorm_d_max = 5;  ///< renorm: see RenormOptions
    double renorm_start = 0.05, renorm_full = 0.25;
    std::int64_t groups = 32;          ///< group: wanted groups of channels, see group_count()
    std::int64_t group_channels = 16;  ///< whitening: channels that are whitened together, at most
    bool affine = true;
    bool track_running_stats = true;
    std::string position = "before";  ///< before or after the activation
  } norm;

  struct Data {
    std::string kind = "builtin";  ///< builtin, mnist, fashion-mnist, cifar10, cifar100, image-folder
    std::string path;              ///< folder with the files; empty: see data_root()
    std::int64_t image_size = 0;   ///< height and width that images are scaled to; 0: their own
    double crop_fraction = 1;
    bool random_resized_crop = false;
    std::int64_t train_limit = 0;  ///< first n images only; 0 = all
    std::int64_t test_limit = 0;
    int crop_padding = 0;
    bool horizontal_flip = false;
    bool binarize = false;
    bool normalize = true;  ///< by the data set's published mean and standard deviation
    bool shuffle = true;
    bool drop_last = false;
    int prefetch = 3;
    int threads = 1;
  } data;

  struct Model {
    std::string name = "resnet20";                  ///< see model_names(); or "layers"
    std::vector<LayerConfig> layers;                ///< for name = layers
    std::string init = "default";                   ///< default (of the model), he, glorot, gaussian
    double init_std = 0.01;                         ///< gaussian
    std::vector<std::int64_t> hidden = {256, 256};  ///< mlp
    std::string activation = "relu";                ///< mlp, lenet: relu, leaky_relu, sigmoid, tanh
    double dropout = 0;                             ///< before the classifier, see ModelOptions
    bool zero_init_residual = false;
    std::string weights;                      ///< safetensors file or checkpoint to start from; empty: random weights
    std::vector<std::string> weights_except;  ///< names or glob patterns of tensors that start at random all the same
  } model;

  double label_smoothing = 0;
  OptimizerOptions optimizer;             ///< optimizer.*
  double lr = 0.1;                        ///< optimizer.lr
  std::string lr_scaling = "none";        ///< optimizer.lr_scaling: none, linear, sqrt
  std::int64_t lr_reference_batch = 256;  ///< optimizer.lr_reference_batch
  double clip_norm = 0;                   ///< optimizer.clip_norm; 0 = off
  ScheduleOptions schedule;               ///< schedule.* (schedule.lr is computed)
  double warmup_epochs = 0;               ///< schedule.warmup_epochs, besides schedule.warmup_steps

  struct Train {
    double epochs = 1;
    std::int64_t steps = 0;            ///< > 0: counts instead of epochs
    std::int64_t accumulate = 1;       ///< micro-batches per update
    std::string eval_every = "epoch";  ///< "epoch", a number of steps, or 0 = only at the end
    std::string eval_split = "test";   ///< test or train
    /// What every evaluation normalizes with, where norm.type shares statistics: running, precise, batch. The first one
    /// gives the accuracy; the others are reported besides.
    std::vector<std::string> eval_statistics = {"running"};
    std::int64_t precise_samples = 8192;  ///< training images for precise statistics, in whole global batches
    std::int64_t log_every = 10;          ///< steps per line of metrics.jsonl
  } train;

  std::string reduction = "ordered";  ///< ordered or native (the latter gives up the same bits on any number of ranks)
  std::string device = "cpu";         ///< cpu or cuda
  std::string precision = "float32";  ///< float32; on cuda also tf32, bfloat16, float16

  // ---- how it is run: none of these changes a result ----
  struct Probes {
    std::vector<std::string> names = {};   ///< see probe_names(), or all
    std::int64_t every = 10;               ///< steps
    std::vector<std::string> layers = {};  ///< activations, shift: names or glob patterns; empty: all
    std::int64_t units = 64;               ///< activations: units of a layer
  } probes;

  struct Checkpoint {
    std::string every = "epoch";  ///< "epoch", a number of steps, or 0 = only at the end and on signals
    int keep = 2;                 ///< last k
    bool keep_best = true;
  } checkpoint;

  struct Output {
    std::string dir = "runs/{name}";  ///< {name}: stem of the configuration file
    bool tensorboard = false;         ///< write the metrics as TensorBoard events too
  } output;

  int threads = 0;          ///< compute threads of a rank; 0 = its share of the machine's cores
  bool overlap = true;      ///< reduce gradients while backward runs
  bool cuda_graphs = true;  ///< on one rank: capture forward and backward passes once, then start each by one call
  int bucket_kib = 0;       ///< size of a gradient bucket; 0 = auto, see bucket_bytes()
  double timeout_s = 30;    ///< how long a worker waits for another before the job is ended
};

/// What probes.names may list: batch_noise, gradient_noise_scale, activations, norms, shift.
const std::vector<std::string>& probe_names();

/// One key of a configuration set to a value, and where that stands (for messages).
struct Setting {
  std::string key, value, place;
};

/// Reads a YAML file (or, if no such file exists, one of the configurations shipped in the program, by name) and
/// applies settings, then overrides of the form a.b=v. Strict: unknown keys, duplicate keys, ill-typed or out-of-range
/// values, and values of keys that nothing in this experiment reads throw Error(usage) with file, line, key and, where
/// it helps, the nearest valid key or value. A key that something would read, were it not for a setting or override
/// behind it, is no error: it gets its default. With `unread`, neither are the other keys that nothing reads: they get
/// their defaults, too, and are appended there.
Config load_config(const std::string& path, const std::vector<std::string>& overrides,
                   const std::vector<Setting>& settings = {}, std::vector<std::string>* unread = nullptr);

/// The same from text; `origin` stands in messages.
Config parse_config(const std::string& yaml, const std::string& origin, const std::vector<std::string>& overrides,
                    const std::vector<Setting>& settings = {}, std::vector<std::string>* unread = nullptr);

/// Checks that need more than one key, such as norm.group against workers: load_config() makes them, and whoever fills
/// in `workers: auto` makes them again. Throws Error(usage).
void check_config(const Config& config);

/// What the model of a configuration is built from, for images of this shape ([1, C, H, W]).
ModelOptions model_options(const Config& config, const Shape& image, std::int64_t classes);

/// Complete YAML of a configuration; parse_config(to_yaml(c)) == c. Stable text: ranks and resumes compare it.
std::string to_yaml(const Config& config);

/// The part that defines the result, without the keys that only say how the run is done (data.path, data.threads,
/// train.log_every, probes, checkpoint, output, threads, timeout_s, ...): what a resume must match.
std::string experiment_yaml(const Config& config);

/// The keys of it that do not have their default value: a name of the experiment that stays the same when a later
/// version has more keys. A default that has been released must not change, because names do not tell.
std::string changes_yaml(const Config& config);

/// One line per key: name, default, meaning. For --help and the README.
struct KeyHelp {
  std::string key, default_value, meaning;
};
const std::vector<KeyHelp>& config_keys();
/// Those of an entry of model.layers. Without a default (""), the meaning says what holds.
const std::vector<KeyHelp>& layer_keys();

/// Configurations shipped in the program (configs/*.yaml).
struct ShippedConfig {
  std::string name, text;
};
const std::vector<ShippedConfig>& shipped_configs();

}  // namespace syncbn
