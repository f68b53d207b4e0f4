#include "syncbn/train/config.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "core/text.hpp"
#include "syncbn/core/error.hpp"
#include "train/config/check.hpp"
#include "train/config/schema.hpp"
#include "train/config/shipped.hpp"
#include "train/config/value.hpp"
#include "train/config/yaml_text.hpp"

namespace syncbn {
namespace {

using namespace detail;

template <class Keys>
auto* find_key(Keys& keys, const std::string& name) {
  for (auto& key : keys) {
    if (key.name == name) return &key;
  }
  return static_cast<decltype(&keys[0])>(nullptr);
}

std::vector<std::string> key_names() {
  std::vector<std::string> names;
  for (const auto& key : config_schema()) names.push_back(key.name);
  return names;
}

bool is_section(const std::string& name) {
  for (const auto& key : config_schema()) {
    if (key.name.starts_with(name + ".")) return true;
  }
  return false;
}

std::vector<std::string> section_names() {
  std::vector<std::string> names;
  for (const auto& key : config_schema()) {
    const std::string section = key.name.substr(0, key.name.find('.'));
    if (section != key.name && (names.empty() || names.back() != section)) names.push_back(section);
  }
  return names;
}

/// The key that the writer of an unknown one may have meant: the equivalent of another program's name, or a key with
/// the same last part ("lr" -> "optimizer.lr"), else the key or section with the most similar spelling.
std::string suggestion(const std::string& name) {
  static const std::map<std::string, std::string> kElsewhere = {{"batch_size", "batch_per_worker"},
                                                                {"learning_rate", "optimizer.lr"},
                                                                {"dataset", "data.kind"},
                                                                {"arch", "model.name"}};
  const std::string leaf = name.substr(name.rfind('.') + 1);
  if (const auto found = kElsewhere.find(leaf); found != kElsewhere.end()) return found->second;
  for (const auto& key : config_schema()) {
    if (key.name.ends_with("." + leaf) || key.name == leaf) return key.name;
  }
  const std::string close = nearest(name, key_names());
  return close.empty() ? nearest(name, section_names()) : close;
}

[[noreturn]] void unknown_key(const std::string& place, const std::string& name) {
  std::string message = fmt::format("{}: unknown key '{}'", place, name);
  const std::string close = suggestion(name);
  message += close.empty() ? " (syncbn train --help lists all keys)" : fmt::format("; did you mean '{}'?", close);
  fail(message);
}

/// Walks a document and fills a Config.
class Reader {
 public:
  Reader(Config& config, Places& places) : config_(config), places_(places) {}

  void document(const YAML::Node& root, const std::string& origin) {
    if (root.IsNull()) return;
    if (!root.IsMap()) fail(fmt::format("{}: expected 'key: value' lines", place_of(root, origin)));
    if (root["base"]) fail(fmt::format("{0}: is a study, which has a `base`; start it with: syncbn study {0}", origin));
    section("", root, origin);
  }

  void override_with(const std::string& assignment) { set(parse_assignment(assignment)); }

  void set(const Setting& setting) {
    const auto& [name, text, origin] = setting;
    if (is_section(name))
      fail(fmt::format("{}: '{}' is a section; set one of its keys ({}.KEY=VALUE)", origin, name, name));
    const Key<Config>* key = find_key(config_schema(), name);
    if (key == nullptr) unknown_key(origin, name);
    // Scalars are taken as they are, so that no text needs quoting twice; lists are written as in YAML.
    const bool texts = std::holds_alternative<std::vector<std::string>*>(key->field(config_));
    const bool list = text.starts_with('[') && (key->rule.form != Form::text || texts);
    value(*key, list ? parse_value(name, text, origin) : YAML::Node(text), origin, origin);
    if (!key->use.replaces.empty()) reset(*find_key(config_schema(), key->use.replaces), config_);
  }

  /// Ends a source (file, settings or overrides): keys given so far that are in use were given on purpose.
  void end_source() {
    for (const std::string& name : given_) meant_.insert(name);
    for (const Key<Config>* key : unread(config_)) {
      if (given_.contains(key->name)) meant_.erase(key->name);
    }
    given_.clear();
  }

  /// Resets keys that are no longer in use because of what was given after them. With `others`, also resets the other
  /// keys that are not in use, and adds their names there.
  void forget_unread(std::vector<std::string>* others) {
    for (bool again = true; again;) {  // resetting one key may put another out of use
      again = false;
      for (const Key<Config>* key : unread(config_)) {
        const bool meant = meant_.contains(key->name);
        if (!meant && others == nullptr) continue;
        if (!meant) others->push_back(key->name);
        reset(*key, config_);
        again = true;
      }
    }
  }

 private:
  void section(const std::string& prefix, const YAML::Node& map, const std::string& origin) {
    std::map<std::string, std::string> seen;  // yaml-cpp keeps duplicates without a word
    for (const auto& entry : map) {
      const std::string place = place_of(entry.first, origin);
      if (!entry.first.IsScalar()) fail(fmt::format("{}: a key must be plain text", place));
      const std::string name = prefix + entry.first.Scalar();
      if (const auto [it, fresh] = seen.emplace(name, place); !fresh) {
        fail(fmt::format("{}: duplicate key '{}' (first at {})", place, name, it->second));
      }
      if (entry.first.Scalar().find('.') != std::string::npos) refuse_dots(place, name);
      entry_of(name, entry.second, place, origin);
    }
  }

  [[noreturn]] static void refuse_dots(const std::string& place, const std::string& name) {
    if (find_key(config_schema(), name) == nullptr) unknown_key(place, name);
    const std::size_t dot = name.find('.');
    fail(fmt::format("{}: '{}' must be nested: write '{}:' and '{}:' below it, indented", place, name,
                     name.substr(0, dot), name.substr(dot + 1)));
  }

  void entry_of(const std::string& name, const YAML::Node& node, const std::string& place, const std::string& origin) {
    if (const Key<Config>* key = find_key(config_schema(), name)) return value(*key, node, place, origin);
    if (!is_section(name)) unknown_key(place, name);
    if (node.IsNull()) return;  // a section whose keys are all commented out
    if (!node.IsMap()) fail(fmt::format("{}: '{}' is a section; put its keys below it, indented", place, name));
    section(name + ".", node, origin);
  }

  void value(const Key<Config>& key, const YAML::Node& node, const std::string& place, const std::string& origin) {
    const Field field = key.field(config_);
    if (key.rule.form == Form::layers) {
      layers(*std::get<std::vector<LayerConfig>*>(field), node, origin);
    } else {
      assign(key.name, key.rule, field, node, origin);
    }
    places_[key.name] = place;
    given_.insert(key.name);
  }

  void layers(std::vector<LayerConfig>& out, const YAML::Node& list, const std::string& origin) {
    if (!list.IsSequence()) fail(fmt::format("{}: model.layers: expected a list of layers", place_of(list, origin)));
    out.clear();
    for (const YAML::Node& item : list) {
      if (!item.IsMap()) {
        fail(fmt::format("{}: model.layers: expected {{type: ..., ...}}", place_of(item, origin)));
      }
      out.push_back(layer(item, fmt::format("model.layers[{}]", out.size()), origin));
    }
  }

  LayerConfig layer(const YAML::Node& map, const std::string& path, const std::string& origin) {
    LayerConfig result;
    std::map<std::string, std::string> seen;
    for (const auto& entry : map) {
      const std::string place = place_of(entry.first, origin);
      const std::string name = entry.first.IsScalar() ? entry.first.Scalar() : "";
      const LayerKey* key = find_key(layer_schema(), name);
      if (key == nullptr) {
        std::vector<std::string> names;
        for (const auto& known : layer_schema()) names.push_back(known.name);
        fail(fmt::format("{}: unknown key '{}.{}'{}", place, path, name, did_you_mean(name, names)));
      }
      if (!seen.emplace(name, place).second) fail(fmt::format("{}: duplicate key '{}.{}'", place, path, name));
      assign(path + "." + name, key->rule, key->field(result), entry.second, origin);
    }
    result.place.text = place_of(map, origin);
    check_layer(result, seen, path, result.place.text);
    return result;
  }

  static void check_layer(const LayerConfig& layer, const std::map<std::string, std::string>& given,
                          const std::string& path, const std::string& place) {
    if (layer.type.empty()) fail(fmt::format("{}: {}: needs a type, such as conv2d", place, path));
    const auto has_type = [&](const std::vector<std::string>& types) {
      return std::find(types.begin(), types.end(), layer.type) != types.end();
    };
    for (const LayerKey& key : layer_schema()) {
      const bool needed = has_type(key.needed_by) || (layer.type == "add" && key.name == "from");
      const bool everywhere = key.needed_by.empty() && key.used_by.empty();
      const auto at = given.find(key.name);
      if (needed && at == given.end()) {
        fail(fmt::format("{}: {}: {} needs '{}' ({})", place, path, layer.type, key.name, describe(key.rule)));
      }
      if (at != given.end() && !needed && !everywhere && !has_type(key.used_by)) {
        fail(fmt::format("{}: {}: {} has no '{}'", at->second, path, layer.type, key.name));
      }
    }
  }

  static YAML::Node parse_value(const std::string& name, const std::string& text, const std::string& origin) {
    try {
      return clear_marks(load_yaml(text));
    } catch (const YAML::Exception& e) {
      fail(fmt::format("{}: {}: {}", origin, name, e.msg));
    }
  }

  /// Lines inside an override mean nothing to the reader of a message.
  static YAML::Node clear_marks(const YAML::Node& node) {
    YAML::Node copy;
    if (node.IsSequence()) {
      copy = YAML::Node(YAML::NodeType::Sequence);
      for (const YAML::Node& item : node) copy.push_back(clear_marks(item));
    } else if (node.IsMap()) {
      copy = YAML::Node(YAML::NodeType::Map);
      for (const auto& entry : node) copy.force_insert(clear_marks(entry.first), clear_marks(entry.second));
    } else if (node.IsScalar()) {
      copy = YAML::Node(node.Scalar());
    }
    copy.SetTag(node.Tag());
    return copy;
  }

  Config& config_;
  Places& places_;
  std::set<std::string> given_, meant_;  // keys: of the source that is being read; that something read at its end
};

}  // namespace

Config parse_config(const std::string& yaml, const std::string& origin, const std::vector<std::string>& overrides,
                    const std::vector<Setting>& settings, std::vector<std::string>* unread) {
  Config config;
  Places places;
  Reader reader(config, places);
  reader.document(parse_yaml(yaml, origin), origin);
  reader.end_source();
  for (const Setting& setting : settings) reader.set(setting);
  reader.end_source();
  for (const std::string& assignment : overrides) reader.override_with(assignment);
  reader.end_source();
  reader.forget_unread(unread);
  check(config, places);
  return config;
}

Config load_config(const std::string& path, const std::vector<std::string>& overrides,
                   const std::vector<Setting>& settings, std::vector<std::string>* unread) {
  std::error_code ignored;
  const bool directory = std::filesystem::is_directory(path, ignored);
  if (!directory && std::filesystem::exists(path, ignored)) {
    return parse_config(read_config_file(path), path, overrides, settings, unread);
  }
  if (const ShippedConfig* shipped = find_shipped(shipped_configs(), path))
    return parse_config(shipped->text, shipped->name + ".yaml", overrides, settings, unread);
  if (directory) fail(fmt::format("{0}: is a directory; name a YAML file, such as {0}/config.yaml", path));
  if (path.starts_with("study/")) {
    fail(fmt::format("{0}: not a configuration; studies are started with: syncbn study {0}", path));
  }
  fail(fmt::format("{}: no such file, nor a shipped configuration of this name{}", path,
                   did_you_mean(std::filesystem::path(path).stem().string(), names_of(shipped_configs()),
                                " (syncbn configs list)")));
}

}  // namespace syncbn
