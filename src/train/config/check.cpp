#include "train/config/check.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "core/text.hpp"
#include "syncbn/core/error.hpp"
#include "train/config/value.hpp"

namespace syncbn {
namespace detail {
namespace {

const Key<Config>& key_of(const std::string& name) {
  const auto& keys = config_schema();
  return *std::find_if(keys.begin(), keys.end(), [&](const Key<Config>& key) { return key.name == name; });
}

std::string text_of(const Key<Config>& key, Config& config) {
  return value_text(key.rule, key.field(config));
}

bool holds(const Condition& condition, Config& config) {
  const Key<Config>& key = key_of(condition.key);
  const Field field = key.field(config);
  const auto wanted = [&](const std::string& value) {
    return std::find(condition.values.begin(), condition.values.end(), value) != condition.values.end();
  };
  if (const auto* list = std::get_if<std::vector<std::string>*>(&field)) {
    return condition.values.empty() ? !(*list)->empty() : std::any_of((*list)->begin(), (*list)->end(), wanted);
  }
  const std::string text = value_text(key.rule, field);
  return condition.values.empty() ? text != "0" && !text.empty() : wanted(text);
}

bool is_read(const Key<Config>& key, Config& config) {
  const auto& conditions = key.use.read_with;
  return conditions.empty() || std::any_of(conditions.begin(), conditions.end(), [&](const Condition& c) {
           return holds(c, config) && is_read(key_of(c.key), config);
         });
}

/// Collects what a check needs to complain: the key that should change, and where it stands.
class Checker {
 public:
  Checker(const Config& config, const Places& places) : c_(config), places_(places) {}

  void run() const {
    for (const Key<Config>* key : unread(c_)) require(false, key->name, why_unread(key->name, c_));
    sizes();
    data();
    precision();
    normalization();
    renormalization();
    model();
    evaluation();
    schedule();
    require(!c_.output.dir.empty(), "output.dir", "is empty; name the run directory");
  }

 private:
  void require(bool ok, const std::string& key, const std::string& message) const {
    if (ok) return;
    const auto place = places_.find(key);
    throw Error(fmt::format("{}{}: {}", place == places_.end() ? "" : place->second + ": ", key, message),
                ExitCode::usage);
  }

  void sizes() const {
    const std::int64_t global = std::max(c_.workers, 1) * c_.batch_per_worker;
    require(global <= std::int64_t{1} << 31, "batch_per_worker",
            fmt::format("workers x batch_per_worker = {} samples is more than 2^31", global));
  }

  void data() const {
    require(c_.data.kind != "image-folder" || !c_.data.path.empty(), "data.path",
            "data.kind = image-folder needs the folder that holds train/CLASS/*.jpg and val/CLASS/*.jpg");
  }

  void precision() const {
    require(c_.precision == "float32" || c_.device == "cuda", "precision",
            fmt::format("{} is for device: cuda; device: {} computes in float32: change one of the two", c_.precision,
                        c_.device));
  }

  void normalization() const {
    const auto group = parse_whole<std::int64_t>(c_.norm.group);
    if (group && c_.workers > 0 && shares_statistics(c_.norm.type)) {
      std::string divisors;
      for (int g = 1; g <= c_.workers; ++g) {
        if (c_.workers % g == 0) divisors += fmt::format("{}{}", divisors.empty() ? "" : ", ", g);
      }
      require(*group > 0 && c_.workers % *group == 0, "norm.group",
              fmt::format("{} does not divide workers = {}; possible are {}", *group, c_.workers, divisors));
    }
  }

  void renormalization() const {
    require(c_.norm.momentum_reference_batch == 0 || c_.norm.momentum != "cumulative", "norm.momentum_reference_batch",
            "norm.momentum: cumulative has no decay; remove one of the two");
    if (c_.norm.type != "renorm") return;
    require(c_.norm.track_running_stats, "norm.track_running_stats",
            "norm.type: renorm compares batches with the running statistics: it needs true");
    require(c_.norm.renorm_start <= c_.norm.renorm_full, "norm.renorm_full",
            fmt::format("{} is before norm.renorm_start: {}", c_.norm.renorm_full, c_.norm.renorm_start));
  }

  void model() const {
    require(c_.model.name != "layers" || !c_.model.layers.empty(), "model.layers",
            "model.name = layers needs a list of layers");
    require(!c_.optimizer.nesterov || c_.optimizer.momentum > 0, "optimizer.nesterov", "needs optimizer.momentum > 0");
    const bool divides = c_.optimizer.name != "sgd" && c_.optimizer.name != "lars";
    require(!divides || c_.optimizer.eps > 0, "optimizer.eps",
            fmt::format("{} divides by it where a gradient has always been 0; take a number > 0", c_.optimizer.name));
  }

  void evaluation() const {
    const std::vector<std::string>& list = c_.train.eval_statistics;
    require(!list.empty(), "train.eval_statistics", "needs at least one of running, precise, batch");
    for (auto name = list.begin(); name != list.end(); ++name) {
      require(std::find(list.begin(), name, *name) == name, "train.eval_statistics",
              fmt::format("names {} twice", *name));
    }
    // Alone it stands for the batch's then, as the default does.
    require(
        c_.norm.track_running_stats || list.size() == 1 || std::find(list.begin(), list.end(), "running") == list.end(),
        "train.eval_statistics", "norm.track_running_stats: false leaves no running ones; remove one of the two");
  }

  void schedule() const {
    const auto& s = c_.schedule;
    require(s.name != "step" || !s.milestones.empty(), "schedule.milestones",
            "schedule.name = step needs milestones, such as [0.5, 0.75]");
    double previous = 0;
    for (const double m : s.milestones) {
      require(m != 1, "schedule.milestones", "1 is neither a fraction below 1 nor a later step");
      require(m < 1 || m == std::floor(m), "schedule.milestones", fmt::format("{} is not a number of steps", m));
      require(m > previous, "schedule.milestones", "must ascend");
      require(previous == 0 || (previous < 1) == (m < 1), "schedule.milestones",
              "must all be fractions below 1, or all numbers of steps");
      previous = m;
    }
    require(c_.warmup_epochs == 0 || s.warmup_steps == 0, "schedule.warmup_epochs",
            "give schedule.warmup_epochs or schedule.warmup_steps, not both");
  }

  const Config& c_;
  const Places& places_;
};

}  // namespace

bool is_read(const std::string& key, const Config& config) {
  Config copy = config;
  return is_read(key_of(key), copy);
}

std::string why_unread(const std::string& key, const Config& config) {
  Config copy = config;
  const std::vector<Condition>& conditions = key_of(key).use.read_with;
  std::vector<std::string> wanted, present;
  for (const Condition& c : conditions) {
    if (holds(c, copy)) return why_unread(c.key, config);  // which is not read itself
    const std::string value = text_of(key_of(c.key), copy), text = value == "[]" ? "" : value;
    wanted.push_back(c.values.empty() ? c.key + (text.empty() ? " set" : " > 0")
                                      : fmt::format("{} = {}", c.key, fmt::join(c.values, ", ")));
    present.push_back(text.empty() ? "it is not" : fmt::format("{} = {}", c.key, text));
  }
  return fmt::format("only read with {}, but {}; remove it, or change {}", fmt::join(wanted, " or "),
                     fmt::join(present, " and "), conditions.front().key);
}

std::vector<const Key<Config>*> unread(Config config) {
  Config defaults;
  std::vector<const Key<Config>*> keys;
  for (const Key<Config>& key : config_schema()) {
    if (!is_read(key, config) && text_of(key, config) != text_of(key, defaults)) keys.push_back(&key);
  }
  return keys;
}

void reset(const Key<Config>& key, Config& config) {
  Config defaults;
  std::visit([&](auto* value) { *value = *std::get<decltype(value)>(key.field(defaults)); }, key.field(config));
}

void check(const Config& config, const Places& places) {
  Checker(config, places).run();
}

}  // namespace detail

ModelOptions model_options(const Config& config, const Shape& image, std::int64_t classes) {
  ModelOptions options;
  options.name = config.model.name;
  options.layers = config.model.layers;
  options.input = image;
  options.classes = classes;
  options.norm = config.norm.type;
  options.norm_groups = config.norm.groups;
  options.norm_group_channels = config.norm.group_channels;
  options.norm_affine = config.norm.affine;
  options.norm_after_activation = config.norm.position == "after";
  options.init = config.model.init;
  options.init_std = config.model.init_std;
  options.hidden = config.model.hidden;
  options.activation = config.model.activation;
  options.dropout = config.model.dropout;
  options.zero_init_residual = config.model.zero_init_residual;
  return options;
}

void check_config(const Config& config) {
  detail::check(config, {});
}

}  // namespace syncbn
