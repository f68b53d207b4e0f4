// Reads a study file: strict, with the place of everything that is wrong.

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "core/text.hpp"
#include "study/plan/plan.hpp"
#include "study/plan/yaml_section.hpp"
#include "syncbn/core/error.hpp"
#include "train/config/schema.hpp"
#include "train/config/shipped.hpp"
#include "train/config/value.hpp"
#include "train/config/yaml_text.hpp"

namespace syncbn {
namespace {

using detail::contend;
using detail::fail;
using detail::place_of;

constexpr std::uint64_t kMaxSeeds = 1000;
constexpr const char* kCommandLine = "command line";

/// Text that an override reads back: scalars as they are, lists in YAML's flow style.
std::string text_of(const YAML::Node& node) {
  if (node.IsScalar()) return node.Scalar();
  YAML::Emitter out;
  out.SetMapFormat(YAML::Flow);
  out.SetSeqFormat(YAML::Flow);
  out << node;
  return out.c_str();
}

void refuse_seed(const std::string& place, const std::string& key) {
  if (key == "seed") fail(fmt::format("{}: seed: a study has `seeds: N` or `seeds: [a, b, ...]` instead", place));
}

void refuse_both(const std::string& place, const std::string& key, const std::string& other, const std::string& there) {
  fail(fmt::format("{}: {} is varied, but {} is, too, at {}; remove one", place, key, other, there));
}

/// Only what can change a result may differ between trials.
void require_experiment_key(const std::string& place, const std::string& key) {
  refuse_seed(place, key);
  if (detail::use_of(key).run_only) {
    fail(fmt::format("{}: {}: never changes a result, so there is nothing to study", place, key));
  }
}

/// What can be said for all trials at once.
void require_free_key(const std::string& place, const std::string& key) {
  refuse_seed(place, key);
  const auto& own = study_keys();
  if (std::find(own.begin(), own.end(), key) != own.end()) {
    fail(fmt::format("{}: {}: a study chooses it for each trial; remove it", place, key));
  }
}

class Reader {
 public:
  Reader(Study& study, std::string origin) : study_(study), origin_(std::move(origin)) {}

  void document(const YAML::Node& root) {
    if (!root.IsMap() || !root["base"] || !root["base"].IsScalar()) {
      fail(
          fmt::format("{0}: a study needs `base: NAME`, the configuration that all trials start from; a configuration "
                      "itself is trained with: syncbn train {0}",
                      origin_));
    }
    const Section s(root, "a study", origin_, keys_below(""));
    study_.base = beside(s.find("base")->node.Scalar());
    if (const auto* title = s.find("title")) study_.title = text(*title, "title");
    if (const auto* set = s.find("set")) settings("", set->node);
    if (const auto* rate = s.find("learning_rate")) learning_rate(rate->node);
    if (const auto* vary = s.find("vary")) variations(*vary);
    for (const Dimension& d : study_.dimensions)  // beside other keys it is where each search begins
      if (!study_.lr_factors.empty() && d.keys == std::vector<std::string>{"optimizer.lr"})
        fail(claimed_.at("optimizer.lr") + ": optimizer.lr is varied and searched for; remove one");
    study_.seeds = {1};
    if (const auto* given = s.find("seeds")) study_.seeds = seeds(given->node, given->place);
    if (const auto* repeat = s.find("repeat")) repetitions(repeat->node);
  }

  /// Once the seeds are known: a search has one of its own. Chosen by what it did with a seed, a learning rate would
  /// make that seed's result look better than it is.
  void choose_search_seed() {
    const auto taken = [&] { return std::count(study_.seeds.begin(), study_.seeds.end(), study_.lr_seed) > 0; };
    if (study_.lr_factors.empty()) return;
    if (!search_seed_place_.empty() && taken()) {
      fail(fmt::format("{}: learning_rate.search_seed: {} is one of the seeds; give another, or leave it out",
                       search_seed_place_, study_.lr_seed));
    }
    while (taken()) ++study_.lr_seed;
  }

  std::vector<std::uint64_t> seeds(const YAML::Node& node, const std::string& place) const {
    std::vector<std::uint64_t> list;
    if (!node.IsSequence()) {
      const auto n = number_of<std::uint64_t>(node, place, "seeds", "a number from 1 to 1000, or a list [a, b, ...]",
                                              [](std::uint64_t v) { return v >= 1 && v <= kMaxSeeds; });
      for (std::uint64_t seed = 1; seed <= n; ++seed) list.push_back(seed);
      return list;
    }
    for (const YAML::Node& item : node) {
      const std::string at = place == kCommandLine ? place : place_of(item, origin_);
      list.push_back(
          number_of<std::uint64_t>(item, at, "seeds", "an integer >= 0", [](std::uint64_t) { return true; }));
      if (std::count(list.begin(), list.end(), list.back()) > 1) {
        fail(fmt::format("{}: seeds: {} stands there twice", at, list.back()));
      }
    }
    if (list.empty()) fail(fmt::format("{}: seeds: an empty list; give at least one", place));
    return list;
  }

 private:
  /// A relative path means a file beside the study, where there is one.
  std::string beside(const std::string& base) const {
    const std::filesystem::path path = std::filesystem::path(origin_).parent_path() / base;
    std::error_code ignored;
    return std::filesystem::is_regular_file(path, ignored) ? path.string() : base;
  }

  static std::string text(const Section::Entry& entry, const char* key) {
    if (!entry.node.IsScalar()) fail(fmt::format("{}: {}: expected text", entry.place, key));
    const std::string& value = entry.node.Scalar();
    const auto control = [](unsigned char c) { return c < 0x20 || c == 0x7f; };
    if (std::ranges::any_of(value, control)) {  // tables have a line for it, and terminals obey
      fail(fmt::format("{}: {}: expected one line without control characters", entry.place, key));
    }
    return value;
  }

  void settings(const std::string& prefix, const YAML::Node& map) {
    for (const auto& entry : Section(map, prefix.empty() ? "set" : prefix, origin_).entries) {
      const std::string key = prefix + entry.name;
      if (entry.node.IsMap()) {
        settings(key + ".", entry.node);
      } else {
        require_free_key(entry.place, key);
        set(key, entry.node, entry.place);
      }
    }
  }

  /// For all trials; a key stands in one place only, however it is written.
  void set(const std::string& key, const YAML::Node& node, const std::string& place) {
    const auto [it, fresh] = set_.emplace(key, place);
    if (!fresh) fail(fmt::format("{}: {} is set already at {}", place, key, it->second));
    study_.settings.push_back(setting(key, node, place));
  }

  Setting setting(const std::string& key, const YAML::Node& node, const std::string& place) const {
    if (node.IsNull()) fail(fmt::format("{}: {}: expected a value, got nothing", place, key));
    return {key, text_of(node), place};
  }

  void learning_rate(const YAML::Node& node) {
    const Section s(node, "learning_rate", origin_, keys_below("learning_rate."));
    if (const auto* rule = s.find("rule")) set("optimizer.lr_scaling", rule->node, rule->place);
    if (const auto* batch = s.find("reference_batch")) set("optimizer.lr_reference_batch", batch->node, batch->place);
    if (const auto* search = s.find("search")) {
      if (!search->node.IsSequence() || search->node.size() < 2) {
        fail(fmt::format("{}: learning_rate.search: expected a list of at least two factors, such as [0.5, 1, 2]",
                         search->place));
      }
      for (const YAML::Node& item : search->node) {
        const auto factor =
            number_of<double>(item, place_of(item, origin_), "learning_rate.search", "a factor above 0 and below 1e6",
                              [](double v) { return v > 0 && v < 1e6; });
        if (std::count(study_.lr_factors.begin(), study_.lr_factors.end(), factor) > 0) {
          fail(fmt::format("{}: learning_rate.search: {} stands there twice", place_of(item, origin_), factor));
        }
        study_.lr_factors.push_back(factor);
      }
    }
    if (const auto* seed = s.find("search_seed")) {
      search_seed_place_ = seed->place;
      study_.lr_seed = number_of<std::uint64_t>(seed->node, seed->place, "learning_rate.search_seed", "an integer >= 0",
                                                [](std::uint64_t) { return true; });
    }
  }

  void repetitions(const YAML::Node& node) {
    const Section s(node, "repeat", origin_, keys_below("repeat."));
    const auto* below = s.find("until_interval_below");
    const auto* max = s.find("max_seeds");
    if (below == nullptr || max == nullptr) {
      fail(fmt::format("{}: repeat: needs until_interval_below (points of error) and max_seeds",
                       place_of(node, origin_)));
    }
    study_.interval_below = number_of<double>(below->node, below->place, "repeat.until_interval_below",
                                              "above 0 and below 100", [](double v) { return v > 0 && v < 100; });
    study_.max_seeds = number_of<int>(max->node, max->place, "repeat.max_seeds", "an integer from 2 to 1000",
                                      [](int v) { return v >= 2 && v <= 1000; });
    if (study_.max_seeds < static_cast<int>(study_.seeds.size())) {
      fail(fmt::format("{}: repeat.max_seeds: {} is less than the {} seeds that every point gets", max->place,
                       study_.max_seeds, study_.seeds.size()));
    }
  }

  void variations(const Section::Entry& vary) {
    const YAML::Node& node = vary.node;
    const bool empty = node.IsNull() || ((node.IsMap() || node.IsSequence()) && node.size() == 0);
    if (empty) fail(fmt::format("{}: vary: is empty; give a grid, zip or list, or leave it out", vary.place));
    if (node.IsSequence()) {
      for (const YAML::Node& block : node) variation(block);
    } else {
      variation(node);
    }
  }

  void variation(const YAML::Node& block) {
    for (const auto& entry : Section(block, "vary", origin_, keys_below("vary.")).entries) {
      const bool filled = (entry.node.IsMap() || entry.node.IsSequence()) && entry.node.size() > 0;
      if (!filled) fail(fmt::format("{}: vary.{}: is empty", entry.place, entry.name));
      if (entry.name == "grid") grid(entry.node);
      if (entry.name == "zip") zip(entry);
      if (entry.name == "list") list(entry);
    }
  }

  /// The values of one key in a grid or zip; `unique`: each stands there once.
  std::vector<Setting> column(const Section::Entry& key, bool unique) const {
    if (!key.node.IsSequence() || key.node.size() == 0) {
      const char* got = key.node.IsSequence() ? "an empty one" : "none";
      fail(fmt::format("{}: {}: expected a list of values [a, b, ...], got {}", key.place, key.name,
                       key.node.IsMap() ? "more keys; write both in one, such as norm.group" : got));
    }
    std::vector<Setting> values;
    for (const YAML::Node& item : key.node) {
      values.push_back(setting(key.name, item, place_of(item, origin_)));
      for (std::size_t i = 0; i + 1 < values.size(); ++i) {
        if (unique && same_value(values[i].value, values.back().value)) {
          fail(fmt::format("{}: {}: '{}' stands there twice", values.back().place, key.name, values.back().value));
        }
      }
    }
    return values;
  }

  void grid(const YAML::Node& map) {
    for (const auto& key : Section(map, "vary.grid", origin_).entries) {
      Dimension d;
      claim(d, key.name, key.place);
      require_unset(key.name, key.place);
      for (Setting& value : column(key, true)) d.values.push_back({value.key + "=" + value.value, {value}});
      study_.dimensions.push_back(std::move(d));
    }
  }

  void zip(const Section::Entry& block) {
    Dimension d;
    for (const auto& key : Section(block.node, "vary.zip", origin_).entries) {
      claim(d, key.name, key.place);
      require_unset(key.name, key.place);
      const std::vector<Setting> values = column(key, false);
      if (d.values.empty()) d.values.resize(values.size());
      if (values.size() != d.values.size()) {
        fail(fmt::format("{}: vary.zip: '{}' has {} values, '{}' has {}; a zip takes one of each at a time", key.place,
                         key.name, values.size(), d.keys.front(), d.values.size()));
      }
      const auto word = [](const Setting& s) { return s.key != "norm.group" && !parse_whole<double>(s.value); };
      d.named = d.named || std::ranges::any_of(values, word);
      for (std::size_t i = 0; i < values.size(); ++i) add(d.values[i], values[i]);
    }
    d.named = d.named && d.keys.size() > 1;  // a number would be the axis, and nobody would see the word beside it
    study_.dimensions.push_back(std::move(d));
  }

  void list(const Section::Entry& block) {
    if (!block.node.IsSequence()) {
      fail(fmt::format("{}: vary.list: expected a list of alternatives, each {{key: value, ...}}", block.place));
    }
    Dimension d;
    d.named = true;
    std::set<std::string> labels;
    for (const YAML::Node& item : block.node) {
      Dimension::Value value;
      std::string label;
      for (const auto& entry : Section(item, "vary.list", origin_).entries) {
        if (entry.name == "label") {
          label = text(entry, "vary.list.label");
          continue;
        }
        if (std::find(d.keys.begin(), d.keys.end(), entry.name) == d.keys.end()) claim(d, entry.name, entry.place);
        add(value, setting(entry.name, entry.node, entry.place));
      }
      if (label.empty() && value.settings.empty())
        fail(fmt::format("{}: vary.list: an alternative without keys needs a label", place_of(item, origin_)));
      if (label.empty()) d.named = false;
      if (!label.empty()) value.label = label;
      if (!labels.insert(value.label).second) {
        fail(fmt::format("{}: vary.list: '{}' stands there twice", place_of(item, origin_), value.label));
      }
      d.values.push_back(std::move(value));
    }
    d.named = d.named || d.keys.size() > 1;  // no single number tells them apart
    // What an alternative leaves out is as it is set for all trials.
    for (const std::string& key : d.keys) {
      const auto gives = [&](const Dimension::Value& value) {
        return std::ranges::any_of(value.settings, [&](const Setting& s) { return s.key == key; });
      };
      if (std::ranges::all_of(d.values, gives)) require_unset(key, claimed_.at(key));
    }
    study_.dimensions.push_back(std::move(d));
  }

  static void add(Dimension::Value& value, const Setting& setting) {
    for (const Setting& other : value.settings) {
      if (contend(other.key, setting.key)) refuse_both(setting.place, setting.key, other.key, other.place);
    }
    value.label += fmt::format("{}{}={}", value.label.empty() ? "" : ", ", setting.key, setting.value);
    value.settings.push_back(setting);
  }

  /// What all trials of a dimension give is not set for all trials beside.
  void require_unset(const std::string& key, const std::string& place) const {
    for (const auto& [other, there] : set_) {
      if (contend(other, key)) {
        fail(fmt::format("{}: {} is varied, but {} is set for all trials at {}; remove one", place, key, other, there));
      }
    }
  }

  /// A key belongs to one dimension.
  void claim(Dimension& d, const std::string& key, const std::string& place) {
    require_experiment_key(place, key);
    for (const auto& [other, there] : claimed_) {
      if (other == key) fail(fmt::format("{}: {} is varied already at {}", place, key, there));
      if (contend(other, key) && std::ranges::count(d.keys, other) == 0) refuse_both(place, key, other, there);
    }
    claimed_.emplace(key, place);
    d.keys.push_back(key);
  }

  Study& study_;
  std::string origin_;
  std::map<std::string, std::string> set_, claimed_;  // key -> place
  std::string search_seed_place_;                     // "": not given
};

void override_study(Study& study, const Reader& reader, const std::string& assignment) {
  const auto [key, value, place] = detail::parse_assignment(assignment);
  if (key == "seeds") {
    study.seeds = reader.seeds(detail::parse_yaml(value, kCommandLine), kCommandLine);
    study.max_seeds = std::max(study.max_seeds, study.interval_below > 0 ? static_cast<int>(study.seeds.size()) : 0);
    return;
  }
  require_free_key(place, key);
  for (const Dimension& d : study.dimensions) {
    for (const std::string& varied : d.keys) {
      if (contend(varied, key))
        fail(fmt::format("command line: {} is what the study varies; change it in the file", varied));
    }
  }
  study.overrides.push_back(assignment);
}

}  // namespace

Study parse_study(const std::string& yaml, const std::string& origin, const std::vector<std::string>& overrides) {
  Study study;
  study.name = std::filesystem::path(origin).stem().string();
  study.title = study.name;
  study.text = yaml;
  Reader reader(study, origin);
  reader.document(detail::parse_yaml(yaml, origin));
  for (const std::string& assignment : overrides) override_study(study, reader, assignment);
  reader.choose_search_seed();
  return study;
}

Study load_study(const std::string& path, const std::vector<std::string>& overrides) {
  std::error_code ignored;
  if (std::filesystem::is_regular_file(path, ignored)) {
    return parse_study(detail::read_config_file(path), path, overrides);
  }
  constexpr std::string_view kFolder = "study/";
  const std::string name = path.starts_with(kFolder) ? path.substr(kFolder.size()) : path;
  if (const ShippedConfig* shipped = find_shipped(shipped_studies(), name))
    return parse_study(shipped->text, shipped->name + ".yaml", overrides);
  if (find_shipped(shipped_configs(), path))
    fail(fmt::format("{0}: is a configuration, not a study; train it with: syncbn train {0}", path));
  if (std::filesystem::is_directory(path, ignored))
    fail(fmt::format("{}: is a directory; name the study's file", path));
  fail(fmt::format("{}: no such file, nor a shipped study of this name{}", path,
                   did_you_mean(std::filesystem::path(path).stem().string(), names_of(shipped_studies()),
                                " (syncbn configs list)")));
}

}  // namespace syncbn
