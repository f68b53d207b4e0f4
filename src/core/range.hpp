#pragma once

#include <limits>
#include <string>

namespace syncbn {

/// A range of finite numbers from min to max.
struct Range {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool above_min = false;  ///< min itself is excluded
  bool below_max = false;  ///< max itself is excluded

  bool contains(double value) const;  ///< false for NaN
  /// Describes the range: ">= 0 and < 1"; empty without bounds.
  std::string str() const;
};

}  // namespace syncbn
