#pragma once

// The one table of configuration keys. Parsing, writing, --help and the README all come from it.

#include <limits>
#include <string>
#include <variant>
#include <vector>

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
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool above_min = false;  ///< min itself is excluded
  bool below_max = false;  ///< max itself is excluded
};

template <class Owner>
struct Key {
  std::string name;  ///< "norm.eps"
  Field (*field)(Owner&);
  Rule rule;
  std::string meaning;
  bool run_only = false;  ///< says how the run is done; never changes its result
};

/// A key of one entry of model.layers.
struct LayerKey : Key<LayerConfig> {
  std::vector<std::string> needed_by = {};  ///< layer types that cannot do without it
  std::vector<std::string> used_by = {};    ///< further types that accept it; both empty: all
};

const std::vector<Key<Config>>& config_schema();
const std::vector<LayerKey>& layer_schema();

/// "an integer >= 1, or auto"
std::string describe(const Rule& rule);

}  // namespace syncbn::detail
