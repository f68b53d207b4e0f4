#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>

#include "core/text.hpp"
#include "nn/models/models.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn {
namespace {

const std::vector<LayerType> kTypes = {
    LayerType::conv2d,  LayerType::linear,  LayerType::batch_norm, LayerType::relu,     LayerType::leaky_relu,
    LayerType::sigmoid, LayerType::tanh,    LayerType::max_pool,   LayerType::avg_pool, LayerType::global_avg_pool,
    LayerType::dropout, LayerType::flatten, LayerType::add};

std::string entry(const LayerConfig& config, std::size_t i) {
  return fmt::format("{}{}model.layers[{}]", config.place.text, config.place.text.empty() ? "" : ": ", i);
}

LayerType parse_type(const LayerConfig& config, const std::string& where) {
  if (config.type == "norm") return LayerType::batch_norm;  // NormRule makes it the type that norm.type names
  for (const LayerType t : kTypes) {
    if (config.type == name_of(t)) return t;
  }
  throw Error(fmt::format("{}: type: {}", where, unknown(config.type, layer_type_names())), ExitCode::usage);
}

class ListBuilder {
 public:
  explicit ListBuilder(const ModelOptions& options)
      : options_(options), norm_(options), b_(make_builder(options)), x_(b_.input()), init_(default_init()) {
    index_["input"] = b_.input();
    names_.emplace_back("input");
  }

  Model build() {
    for (std::size_t i = 0; i < options_.layers.size(); ++i) append(i);
    return b_.finish(options_.classes);
  }

 private:
  /// Glorot's initialization for networks that saturate, otherwise He's.
  WeightInit default_init() const {
    for (const LayerConfig& l : options_.layers)
      if (l.type == "sigmoid" || l.type == "tanh") return {Init::glorot};
    return {Init::he};
  }

  void append(std::size_t i) {
    const LayerConfig& config = options_.layers[i];
    const LayerType type = parse_type(config, entry(config, i));
    const std::string name = config.name.empty() ? config.type + std::to_string(i) : config.name;
    b_.set_context(name, entry(config, i));
    if (index_.contains(name)) b_.fail(name, type, "another layer has this name: give each its own");
    if (type == LayerType::add && config.from.empty())
      b_.fail(name, type, fmt::format("'from' must name the layer to add, one of {}", fmt::join(names_, ", ")));
    const int from = config.from.empty() ? x_ : find(config.from, name, type);
    x_ = append(config, type, name, from, i + 1 == options_.layers.size());
    index_[name] = x_;
    names_.push_back(name);
  }

  int append(const LayerConfig& c, LayerType type, const std::string& name, int from, bool last) {
    const std::int64_t stride = c.stride != 0 ? c.stride : type == LayerType::conv2d ? 1 : c.kernel;
    const Window window{c.kernel, stride, c.padding};
    switch (type) {
      case LayerType::conv2d:
        return b_.conv2d(name, from, c.out, window, c.bias, init_);
      case LayerType::linear:
        return b_.linear(name, from, c.out, c.bias, last && init_.init == Init::he ? kClassifierInit : init_);
      case LayerType::batch_norm:
        return norm_.norm(b_, from, name);
      case LayerType::max_pool:
      case LayerType::avg_pool:
        return b_.pool(name, from, type, window);
      case LayerType::global_avg_pool:
        return b_.global_avg_pool(name, from);
      case LayerType::dropout:
        return b_.dropout(name, from, c.p);
      case LayerType::flatten:
        return b_.flatten(name, from);
      case LayerType::add:
        return b_.add(name, x_, from);
      default:
        return b_.activation(name, from, type, c.slope);
    }
  }

  int find(const std::string& from, const std::string& name, LayerType type) const {
    const auto it = index_.find(from);
    if (it == index_.end()) b_.fail(name, type, "from: no layer before it has this name: " + unknown(from, names_));
    return it->second;
  }

  const ModelOptions& options_;
  NormRule norm_;
  ModelBuilder b_;
  int x_;
  WeightInit init_;
  std::map<std::string, int> index_;
  std::vector<std::string> names_;
};

}  // namespace

std::vector<std::string> layer_type_names() {
  std::vector<std::string> names = names_of(kTypes);
  names.insert(names.begin(), "norm");
  return names;
}

Model make_from_layers(const ModelOptions& options) {
  if (options.layers.empty())
    throw Error("model.layers is empty: list the layers, or choose a ready model with model.name", ExitCode::usage);
  return ListBuilder(options).build();
}

}  // namespace syncbn
