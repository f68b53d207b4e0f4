#include "train/config/value.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>

#include "core/text.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn::detail {
namespace {

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

/// Whether the text starts with a zero that other readers would take for octal or hexadecimal ("010", "0x10").
bool has_leading_zero(std::string_view digits) {
  return digits.size() > 1 && digits[0] == '0' && digits[1] != '.' && digits[1] != 'e' && digits[1] != 'E';
}

template <class T>
std::optional<T> parse_integer(std::string_view text) {
  const std::string_view digits = text.substr(text.starts_with('-') ? 1 : 0);
  if (digits.empty() || has_leading_zero(digits)) return std::nullopt;
  return parse_whole<T>(text);
}

std::optional<double> parse_number(std::string_view text) {
  const std::string_view digits = text.substr(text.starts_with('-') ? 1 : 0);
  if (digits.empty() || has_leading_zero(digits)) return std::nullopt;
  // parse_whole() also knows "inf" and "nan", which no key accepts.
  if (!is_digit(digits[0]) && digits[0] != '.') return std::nullopt;
  return parse_whole<double>(text);
}

/// One scalar on its way into a field; knows how to complain.
struct Scalar {
  const std::string& key;
  const Rule& rule;
  const YAML::Node& node;
  const std::string& origin;

  const std::string& text() const { return node.Scalar(); }
  bool quoted() const { return node.Tag() == "!"; }
  bool is_word() const { return std::find(rule.words.begin(), rule.words.end(), text()) != rule.words.end(); }

  [[noreturn]] void refuse() const {
    std::string message =
        fmt::format("{}: {}: expected {}, got '{}'", place_of(node, origin), key, describe(rule), text());
    if (quoted() && rule.form != Form::word && rule.form != Form::text) message += " in quotes";
    if (rule.words.size() > 1) message += did_you_mean(text(), rule.words);
    fail(message);
  }

  template <class T>
  T integer() const {
    const std::optional<T> value = quoted() ? std::nullopt : parse_integer<T>(text());
    if (!value || !rule.range.contains(static_cast<double>(*value))) refuse();
    return *value;
  }

  double number() const {
    const std::optional<double> value = quoted() ? std::nullopt : parse_number(text());
    if (!value || !rule.range.contains(*value)) refuse();
    return *value;
  }

  void read(bool& out) const {
    if (quoted() || (text() != "true" && text() != "false")) refuse();
    out = text() == "true";
  }
  void read(int& out) const { out = is_word() ? 0 : integer<int>(); }  // the word of an int key ("auto") stands for 0
  void read(std::int64_t& out) const { out = integer<std::int64_t>(); }
  void read(std::uint64_t& out) const { out = integer<std::uint64_t>(); }
  void read(double& out) const { out = number(); }
  void read(std::string& out) const {
    if (rule.form == Form::text || is_word()) {
      out = text();
    } else if (rule.form == Form::integer) {
      out = fmt::format("{}", integer<std::int64_t>());
    } else if (rule.form == Form::number) {
      out = fmt::format("{}", number());  // one spelling per value: resumes compare texts
    } else {
      refuse();
    }
  }
};

void require_scalar(const std::string& key, const Rule& rule, const YAML::Node& node, const std::string& origin) {
  const auto refuse = [&](const std::string& what) {
    fail(fmt::format("{}: {}: expected {}, got {}", place_of(node, origin), key, describe(rule), what));
  };
  if (node.IsNull()) refuse(rule.form == Form::text ? "nothing (write \"\" for empty text)" : "nothing");
  if (node.IsSequence()) refuse("a list");
  if (node.IsMap()) refuse("a section");
  const std::string& tag = node.Tag();
  if (!tag.empty() && tag != "!" && tag != "?") refuse(fmt::format("a value with the tag {}", tag));
}

struct Assign {
  const std::string& key;
  const Rule& rule;
  const YAML::Node& node;
  const std::string& origin;

  template <class T>
  void operator()(T* out) const {
    require_scalar(key, rule, node, origin);
    Scalar{key, rule, node, origin}.read(*out);
  }

  template <class T>
  void operator()(std::vector<T>* out) const {
    if (!node.IsSequence()) {
      throw Error(
          fmt::format("{}: {}: expected a list [a, b, ...], each {}", place_of(node, origin), key, describe(rule)),
          ExitCode::usage);
    }
    std::vector<T> values;
    for (const YAML::Node& item : node) Assign{key, rule, item, origin}(&values.emplace_back());
    *out = std::move(values);
  }

  void operator()(std::vector<LayerConfig>*) const { throw std::logic_error("assign() does not read lists of layers"); }
};

struct Text {
  const Rule& rule;
  std::string operator()(const bool* v) const { return *v ? "true" : "false"; }
  std::string operator()(const int* v) const {
    return *v == 0 && !rule.words.empty() ? rule.words.front() : fmt::format("{}", *v);
  }
  template <class T>
  std::string operator()(const T* v) const {
    return fmt::format("{}", *v);
  }
  template <class T>
  std::string operator()(const std::vector<T>* v) const {
    return fmt::format("[{}]", fmt::join(*v, ", "));
  }
  std::string operator()(const std::vector<LayerConfig>* v) const { return v->empty() ? "[]" : "[...]"; }
};

}  // namespace

void fail(const std::string& message) {
  std::string line;
  for (const char c : message) {
    const auto byte = static_cast<unsigned char>(c);
    line += byte < 0x20 || byte == 0x7f ? fmt::format("\\x{:02x}", byte) : std::string(1, c);
  }
  throw Error(line, ExitCode::usage);
}

std::string place_of(const YAML::Node& node, const std::string& origin) {
  const YAML::Mark mark = node.Mark();
  return mark.is_null() ? origin : fmt::format("{}:{}", origin, mark.line + 1);
}

Setting parse_assignment(const std::string& text) {
  const std::string origin = "command line";
  const std::size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0) fail(fmt::format("{}: expected KEY=VALUE, got '{}'", origin, text));
  if (!is_utf8(text)) fail(fmt::format("{}: '{}' is not in UTF-8; use other letters", origin, text));
  return {text.substr(0, equals), text.substr(equals + 1), origin};
}

void assign(const std::string& key, const Rule& rule, const Field& field, const YAML::Node& node,
            const std::string& origin) {
  std::visit(Assign{key, rule, node, origin}, field);
}

std::string value_text(const Rule& rule, const Field& field) {
  return std::visit(Text{rule}, field);
}

}  // namespace syncbn::detail
