#pragma once

namespace syncbn {

/// Applied to products of fractions before ceil() or a comparison: cancels rounding such as 1.1 x 100 =
/// 110.00000000000001.
inline constexpr double kRounding = 1 - 1e-12;

}  // namespace syncbn
