#pragma once

#include "core/range.hpp"

/// Valid ranges of the numbers in OptimizerOptions and ScheduleOptions, for validate() and for configuration keys.
namespace syncbn::ranges {

inline constexpr Range kMomentum{.min = 0, .max = 1, .below_max = true};
inline constexpr Range kBeta{.min = 0, .max = 1, .below_max = true};
inline constexpr Range kEps{.min = 0};
inline constexpr Range kWeightDecay{.min = 0};
inline constexpr Range kTrustCoefficient{.min = 0, .above_min = true};

inline constexpr Range kLearningRate{.min = 0};
inline constexpr Range kMilestone{.min = 0, .above_min = true};
inline constexpr Range kGamma{.min = 0, .max = 1, .above_min = true};
inline constexpr Range kPower{.min = 0, .above_min = true};
inline constexpr Range kFinalFraction{.min = 0, .max = 1};
inline constexpr Range kOneCycleStart{.min = 0, .max = 1};
inline constexpr Range kOneCycleDiv{.min = 1};
inline constexpr Range kWarmupSteps{.min = 0};
inline constexpr Range kWarmupStart{.min = 0, .max = 1};

}  // namespace syncbn::ranges
