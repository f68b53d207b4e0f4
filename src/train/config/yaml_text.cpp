#include "train/config/yaml_text.hpp"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>

#include <fstream>
#include <sstream>

#include "core/text.hpp"
#include "train/config/value.hpp"

namespace syncbn::detail {
namespace {

constexpr std::size_t kMaxBytes = 1 << 20;  // far beyond any configuration; keeps a wrong file from being parsed

/// Keeps the place where a document starts. YAML::Load() reads the first document and ignores what follows, which may
/// be a stray bracket; YAML::LoadAll() of yaml-cpp 0.7 never ends on one.
struct DocumentStart : YAML::EventHandler {
  YAML::Mark mark;
  void OnDocumentStart(const YAML::Mark& at) override { mark = at; }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t, const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {}
  void OnMapEnd() override {}
};

}  // namespace

YAML::Node parse_yaml(const std::string& text, const std::string& origin) {
  if (text.size() > kMaxBytes) fail(fmt::format("{}: larger than 1 MiB; is this a configuration?", origin));
  if (text.find('\0') != std::string::npos) fail(fmt::format("{}: not a text file", origin));
  if (!is_utf8(text)) fail(fmt::format("{}: not in UTF-8; convert it", origin));
  try {
    std::istringstream in(text);
    YAML::Parser parser(in);
    DocumentStart start;
    if (parser.HandleNextDocument(start) && parser.HandleNextDocument(start)) {
      fail(fmt::format("{}:{}: unexpected text, or a second YAML document", origin, start.mark.line + 1));
    }
    return YAML::Load(text);
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
