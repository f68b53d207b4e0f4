#pragma once

namespace syncbn {

/// Takes from a product of fractions what it may be too large by: 1.1 x 100 is a little more than 110.
inline constexpr double kRounding = 1 - 1e-12;

}  // namespace syncbn
