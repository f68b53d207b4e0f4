#include <fmt/format.h>
#include <fmt/ranges.h>
#include <yaml-cpp/yaml.h>

#include "syncbn/train/config.hpp"
#include "train/config/schema.hpp"
#include "train/config/value.hpp"

namespace syncbn {
namespace {

using namespace detail;

void write_layers(YAML::Emitter& out, const std::vector<LayerConfig>& layers) {
  out << YAML::BeginSeq;
  for (LayerConfig layer : layers) {
    LayerConfig fresh;
    out << YAML::Flow << YAML::BeginMap;
    for (const LayerKey& key : layer_schema()) {
      const std::string text = value_text(key.rule, key.field(layer));
      if (text != value_text(key.rule, key.field(fresh))) out << YAML::Key << key.name << YAML::Value << text;
    }
    out << YAML::EndMap;
  }
  out << YAML::EndSeq;
}

template <class T>
void write_list(YAML::Emitter& out, const std::vector<T>& values) {
  out << YAML::Flow << YAML::BeginSeq;
  for (const T& value : values) out << fmt::format("{}", value);
  out << YAML::EndSeq;
}

struct WriteValue {
  YAML::Emitter& out;
  const Key<Config>& key;
  template <class T>
  void operator()(T* value) const {
    out << value_text(key.rule, value);
  }
  template <class T>
  void operator()(std::vector<T>* values) const {
    write_list(out, *values);
  }
  void operator()(std::vector<LayerConfig>* layers) const { write_layers(out, *layers); }
};

std::string value_of(const Key<Config>& key, Config config) {
  YAML::Emitter out;
  std::visit(WriteValue{out, key}, key.field(config));
  return out.c_str();
}

std::string meaning_of(const std::string& meaning, const Rule& rule) {
  const bool choice = rule.form == Form::word && rule.words.size() > 1;
  return choice ? fmt::format("{}: {}", meaning, fmt::join(rule.words, ", ")) : meaning;
}

KeyHelp help_of(const LayerKey& key) {
  LayerConfig defaults;
  const std::string value = value_text(key.rule, key.field(defaults));
  const std::vector<std::string>& types = key.needed_by.empty() ? key.used_by : key.needed_by;
  std::string meaning = meaning_of(key.meaning, key.rule);
  if (!types.empty()) meaning = fmt::format("{}: {}", fmt::join(types, ", "), meaning);
  const bool needed = !key.needed_by.empty() || key.name == "type";
  return {key.name, value == "0" && !key.rule.range.contains(0) ? "" : value, (needed ? "needed; " : "") + meaning};
}

enum class Part { everything, experiment, changes };

std::string write(Config config, Part part) {
  YAML::Emitter out;
  out << YAML::BeginMap;
  std::string open;  // the section that is being written
  for (const Key<Config>& key : config_schema()) {
    // The path of an image folder identifies the data, unlike that of a known data set.
    const bool defines = key.name == "data.path" && config.data.kind == "image-folder";
    if (key.use.run_only && part != Part::everything && !defines) continue;
    if (part == Part::changes && value_of(key, config) == value_of(key, Config{})) continue;
    const std::size_t dot = key.name.find('.');
    const std::string section = dot == std::string::npos ? "" : key.name.substr(0, dot);
    if (section != open) {
      if (!open.empty()) out << YAML::EndMap;
      if (!section.empty()) out << YAML::Key << section << YAML::Value << YAML::BeginMap;
      open = section;
    }
    out << YAML::Key << key.name.substr(dot == std::string::npos ? 0 : dot + 1) << YAML::Value;
    std::visit(WriteValue{out, key}, key.field(config));
  }
  if (!open.empty()) out << YAML::EndMap;
  out << YAML::EndMap;
  return std::string(out.c_str()) + "\n";
}

}  // namespace

std::string to_yaml(const Config& config) {
  return write(config, Part::everything);
}

std::string experiment_yaml(const Config& config) {
  return write(config, Part::experiment);
}

std::string changes_yaml(const Config& config) {
  return write(config, Part::changes);
}

const std::vector<KeyHelp>& config_keys() {
  static const std::vector<KeyHelp> keys = [] {
    std::vector<KeyHelp> list;
    Config defaults;
    for (const Key<Config>& key : config_schema()) {
      std::string value = value_text(key.rule, key.field(defaults));
      if (value.empty()) value = "\"\"";
      list.push_back({key.name, value, meaning_of(key.meaning, key.rule)});
    }
    return list;
  }();
  return keys;
}

const std::vector<KeyHelp>& layer_keys() {
  static const std::vector<KeyHelp> keys = [] {
    std::vector<KeyHelp> list;
    for (const LayerKey& key : layer_schema()) list.push_back(help_of(key));
    return list;
  }();
  return keys;
}

}  // namespace syncbn
