#include "syncbn/nn/model.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "core/text.hpp"
#include "nn/models/models.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn {
namespace {

struct ReadyModel {
  std::string name;
  std::function<Model(const ModelOptions&)> make;
};

const std::vector<ReadyModel>& ready_models() {
  using O = const ModelOptions&;
  static const std::vector<ReadyModel> models = {
      {"mlp", make_mlp},
      {"lenet", make_lenet},
      {"vgg11", [](O o) { return make_vgg(o, 11); }},
      {"vgg16", [](O o) { return make_vgg(o, 16); }},
      {"resnet8", [](O o) { return make_cifar_resnet(o, 8); }},
      {"resnet20", [](O o) { return make_cifar_resnet(o, 20); }},
      {"resnet32", [](O o) { return make_cifar_resnet(o, 32); }},
      {"resnet44", [](O o) { return make_cifar_resnet(o, 44); }},
      {"resnet56", [](O o) { return make_cifar_resnet(o, 56); }},
      {"resnet110", [](O o) { return make_cifar_resnet(o, 110); }},
      {"resnet18", [](O o) { return make_resnet(o, 18); }},
      {"resnet34", [](O o) { return make_resnet(o, 34); }},
      {"resnet50", [](O o) { return make_resnet(o, 50); }},
  };
  return models;
}

const std::vector<LayerType> kActivations = {LayerType::relu, LayerType::leaky_relu, LayerType::sigmoid,
                                             LayerType::tanh};

[[noreturn]] void refuse(const std::string& what) {
  throw Error(what, ExitCode::usage);
}

void require_one_of(const std::string& key, const std::string& value, const std::vector<std::string>& choices) {
  if (std::find(choices.begin(), choices.end(), value) == choices.end())
    refuse(fmt::format("{}: {}", key, unknown(value, choices)));
}

/// Rejects options that would be ignored: users would believe that they had an effect.
void check_options(const ModelOptions& o) {
  const bool list = o.name == "layers";
  const bool resnet = o.name.starts_with("resnet");
  require_one_of("norm.type", o.norm, norm_types());
  require_one_of("model.init", o.init, init_names());
  if (o.init == "gaussian" && !(o.init_std > 0)) refuse(fmt::format("model.init_std: {} must be above 0", o.init_std));
  if (o.classes < 1) refuse(fmt::format("model {}: {} classes: there must be at least 1", o.name, o.classes));
  if (!(o.dropout >= 0 && o.dropout < 1)) refuse(fmt::format("model.dropout: {} is outside [0, 1)", o.dropout));
  if (o.activation != "relu" && o.name != "mlp" && o.name != "lenet")
    refuse(fmt::format("model.activation: '{}' applies to mlp and lenet; {} has its own: remove the key", o.activation,
                       o.name));
  if (list && o.norm_after_activation)
    refuse(
        "norm.position: 'after' moves the normalizations of ready models; in model.layers write each norm "
        "where it belongs, and remove the key");
  if (list && o.dropout > 0) refuse("model.dropout applies to ready models; add a dropout entry to model.layers");
  if (o.zero_init_residual && !resnet) refuse("model.zero_init_residual applies to resnets; remove the key");
  if (o.zero_init_residual && (!has_norm_layers(o.norm) || !o.norm_affine || o.norm_after_activation))
    refuse(
        "model.zero_init_residual starts the last gamma of each block at 0: it needs a normalization layer "
        "(norm.type), norm.affine: true and norm.position: before");
  if (o.norm_groups < 1) refuse(fmt::format("norm.groups: {} must be at least 1", o.norm_groups));
  if (o.norm_group_channels < 1)
    refuse(fmt::format("norm.group_channels: {} must be at least 1", o.norm_group_channels));
}

}  // namespace

const char* name_of(LayerType type) {
  switch (type) {
    case LayerType::input:
      return "input";
    case LayerType::conv2d:
      return "conv2d";
    case LayerType::linear:
      return "linear";
    case LayerType::batch_norm:
      return "batch_norm";
    case LayerType::group_norm:
      return "group_norm";
    case LayerType::whitening:
      return "whitening";
    case LayerType::relu:
      return "relu";
    case LayerType::leaky_relu:
      return "leaky_relu";
    case LayerType::sigmoid:
      return "sigmoid";
    case LayerType::tanh:
      return "tanh";
    case LayerType::max_pool:
      return "max_pool";
    case LayerType::avg_pool:
      return "avg_pool";
    case LayerType::global_avg_pool:
      return "global_avg_pool";
    case LayerType::dropout:
      return "dropout";
    case LayerType::flatten:
      return "flatten";
    case LayerType::add:
      return "add";
  }
  return "unknown";
}

bool shares_statistics(LayerType type) {
  return type == LayerType::batch_norm || type == LayerType::whitening;
}

bool is_norm(LayerType type) {
  return shares_statistics(type) || type == LayerType::group_norm;
}

const std::vector<std::string>& norm_types() {
  static const std::vector<std::string> types = {"batch", "renorm",   "whitening", "group",
                                                 "layer", "instance", "weight",    "none"};
  return types;
}

bool has_norm_layers(const std::string& norm_type) {
  return norm_type != "weight" && norm_type != "none";
}

bool shares_statistics(const std::string& norm_type) {
  return norm_type == "batch" || norm_type == "renorm" || norm_type == "whitening";
}

std::int64_t group_count(std::int64_t wanted, const Shape& sample) {
  const auto fits = [&](std::int64_t groups) {
    const std::int64_t channels = sample.c() / groups;
    return sample.c() % groups == 0 && channels >= 2 && channels * sample.spatial() >= 16;
  };
  for (std::int64_t groups = std::min(wanted, sample.c()); groups > 1; --groups) {
    if (fits(groups)) return groups;
  }
  return 1;
}

std::int64_t ParameterSpec::count() const {
  std::int64_t n = 1;
  for (const std::int64_t d : dims) n *= d;
  return n;
}

std::int64_t Model::parameter_count() const {
  std::int64_t n = 0;
  for (const ParameterSpec& p : parameters) n += p.count();
  return n;
}

const std::vector<std::string>& model_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> n;
    for (const ReadyModel& m : ready_models()) n.push_back(m.name);
    return n;
  }();
  return names;
}

std::vector<std::string> names_of(const std::vector<LayerType>& types) {
  std::vector<std::string> names;
  for (const LayerType t : types) names.emplace_back(name_of(t));
  return names;
}

std::vector<std::string> init_names() {
  return {"default", "he", "glorot", "gaussian"};
}

std::vector<std::string> activation_names() {
  return names_of(kActivations);
}

LayerType activation_of(const ModelOptions& options) {
  for (const LayerType t : kActivations) {
    if (options.activation == name_of(t)) return t;
  }
  refuse("model.activation: " + unknown(options.activation, activation_names()));
}

ModelBuilder make_builder(const ModelOptions& options) {
  std::optional<WeightInit> override;
  if (options.init == "he") override = WeightInit{Init::he};
  if (options.init == "glorot") override = WeightInit{Init::glorot};
  if (options.init == "gaussian") override = WeightInit{Init::gaussian, options.init_std};
  return {options.name, options.input, override, options.norm == "weight"};
}

Model make_model(const ModelOptions& options) {
  const auto& ready = ready_models();
  const auto model =
      std::find_if(ready.begin(), ready.end(), [&](const ReadyModel& m) { return m.name == options.name; });
  const bool list = options.name == "layers";
  if (model == ready.end() && !list) {
    std::vector<std::string> names = model_names();
    names.emplace_back("layers");
    require_one_of("model.name", options.name, names);
  }
  check_options(options);
  return list ? make_from_layers(options) : model->make(options);
}

}  // namespace syncbn
