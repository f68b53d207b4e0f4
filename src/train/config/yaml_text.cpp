#include "train/config/yaml_text.hpp"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <sstream>
#include <vector>

#include "core/text.hpp"
#include "train/config/value.hpp"

namespace syncbn::detail {
namespace {

constexpr std::size_t kMaxBytes = 1 << 20;  // far beyond any configuration; keeps a wrong file from being parsed

/// Counts what a document unfolds to: aliases to lists of aliases grow beyond any memory, and what an alias refers to
/// may hold the alias itself, without end. Keeps the place where the document starts.
class DocumentSize : public YAML::EventHandler {
 public:
  YAML::Mark start;

  void OnDocumentStart(const YAML::Mark& at) override { start = at; }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& at, YAML::anchor_t anchor) override { add(at, anchor, {}); }
  void OnScalar(const YAML::Mark& at, const std::string&, YAML::anchor_t anchor, const std::string&) override {
    add(at, anchor, {});
  }
  void OnAlias(const YAML::Mark& at, YAML::anchor_t anchor) override {
    const auto known = known_.find(anchor);
    if (known == known_.end()) throw YAML::ParserException(at, "an alias inside of what it refers to");
    add(at, {}, known->second);
  }
  void OnSequenceStart(const YAML::Mark& at, const std::string&, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open_.push_back({at, anchor, {}});
  }
  void OnSequenceEnd() override {
    const Open done = open_.back();
    open_.pop_back();
    add(done.at, done.anchor, done.extent);
  }
  void OnMapStart(const YAML::Mark& at, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value style) override {
    OnSequenceStart(at, tag, anchor, style);
  }
  void OnMapEnd() override { OnSequenceEnd(); }

 private:
  struct Extent {
    std::size_t values = 1, levels = 1;
  };
  struct Open {
    YAML::Mark at;
    YAML::anchor_t anchor;
    Extent extent;
  };

  void add(const YAML::Mark& at, YAML::anchor_t anchor, Extent extent) {
    constexpr std::size_t kMostValues = 100'000, kMostLevels = 100;  // far beyond any configuration
    if (anchor != 0) known_[anchor] = extent;
    if (open_.empty()) return;
    Extent& outer = open_.back().extent;
    outer.values += extent.values;
    outer.levels = std::max(outer.levels, extent.levels + 1);
    if (outer.values > kMostValues || outer.levels > kMostLevels)
      throw YAML::ParserException(at, "too many values, or too deeply nested");
  }

  std::vector<Open> open_;
  std::map<YAML::anchor_t, Extent> known_;
};

}  // namespace

// YAML::Load() reads the first document and ignores what follows, which may be a stray bracket; YAML::LoadAll() of
// yaml-cpp 0.7 never ends on one.
YAML::Node load_yaml(const std::string& text) {
  std::istringstream in(text);
  YAML::Parser parser(in);
  DocumentSize size;
  if (parser.HandleNextDocument(size) && parser.HandleNextDocument(size))
    throw YAML::ParserException(size.start, "unexpected text, or a second YAML document");
  return YAML::Load(text);
}

YAML::Node parse_yaml(const std::string& text, const std::string& origin) {
  if (text.size() > kMaxBytes) fail(fmt::format("{}: larger than 1 MiB; is this a configuration?", origin));
  if (text.find('\0') != std::string::npos) fail(fmt::format("{}: not a text file", origin));
  if (!is_utf8(text)) fail(fmt::format("{}: not in UTF-8; convert it", origin));
  try {
    return load_yaml(text);
  } catch (const YAML::Exception& e) {
    const bool tabs = text.find("\n\t") != std::string::npos || text.starts_with('\t');
    fail(fmt::format("{}:{}: not valid YAML: {}{}", origin, e.mark.line + 1, e.msg,
                     tabs ? "; it is indented with blanks, not with tabs" : ""));
  }
}

std::string read_config_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::string text;
  if (in) {
    text.resize(kMaxBytes + 1);
    in.read(text.data(), static_cast<std::streamsize>(text.size()));
    text.resize(static_cast<std::size_t>(in.gcount()));
  }
  if (in.bad() || (!in.eof() && in.fail())) fail(fmt::format("{}: cannot be read", path));
  return text;
}

}  // namespace syncbn::detail
