#pragma once

// The one table of configuration keys. Parsing, writing, --help and the README all come from it.

#include <string>
#include <variant>
#include <vector>

#include "core/range.hpp"
#include "syncbn/train/config.hpp"

namespace syncbn::detail {

/// Where the value of a key lives.
using Field =
    std::variant<bool*, int*, std::int64_t*, std::uint64_t*, double*, std::string*, std::vector<std::int64_t>*,
                 std::vector<double>*, std::vector<std::string>*, std::vector<LayerConfig>*>;

enum class Form { boolean, integer, number, word, text, layers };

/// What a scalar (or every item of a list) may be.
struct Rule {
  Form form = Form::text;
  std::vector<std::string> words = {};  ///< word: the choices; integer, number: accepted besides a number
  Range range = {};
};

/// True if `key` is in use and its value is (or contains) one of `values`; with no values, if it is non-empty and
/// non-zero.
struct Condition {
  std::string key;
  std::vector<std::string> values = {};
};

struct Use {
  bool run_only = false;  ///< affects only how the run is carried out, never its result
  /// The key is in use if one of these conditions holds, or if there are none.
  std::vector<Condition> read_with = {};
  /// The key whose value no longer counts once this one is set after it, by a study or on the command line.
  std::string replaces = {};
  bool zero_is_word = false;  ///< 0 is a special word (off, all): do not plot it on a numeric axis
};

template <class Owner>
struct Key {
  std::string name;  ///< "norm.eps"
  Field (*field)(Owner&);
  Rule rule;
  std::string meaning;
  Use use = {};
};

/// A key of one entry of model.layers.
struct LayerKey : Key<LayerConfig> {
  std::vector<std::string> needed_by = {};  ///< layer types that cannot do without it
  std::vector<std::string> used_by = {};    ///< further types that accept it; both empty: all
};

const std::vector<Key<Config>>& config_schema();
const std::vector<LayerKey>& layer_schema();

/// How a key is used; default-constructed for unknown keys.
Use use_of(const std::string& key);
/// Whether two keys exclude each other: only the one given last counts.
bool contend(const std::string& a, const std::string& b);

/// "an integer >= 1, or auto"
std::string describe(const Rule& rule);

}  // namespace syncbn::detail
