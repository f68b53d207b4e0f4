#include "core/range.hpp"

#include <fmt/format.h>

#include <cmath>

namespace syncbn {

bool Range::contains(double value) const {
  return std::isfinite(value) && (above_min ? value > min : value >= min) && (below_max ? value < max : value <= max);
}

std::string Range::str() const {
  std::string text;
  if (std::isfinite(min)) text = fmt::format("{} {}", above_min ? ">" : ">=", min);
  if (std::isfinite(max)) text += fmt::format("{}{} {}", text.empty() ? "" : " and ", below_max ? "<" : "<=", max);
  return text;
}

}  // namespace syncbn
