#include "train/loss_scale.hpp"

#include <limits>

#include "core/text.hpp"
#include "train/storage/scalars.hpp"

namespace syncbn {

namespace {

constexpr int kGrowthInterval = 2000;
constexpr const char* kValue = "loss_scale";
constexpr const char* kFiniteUpdates = "loss_scale_finite_updates";

}  // namespace

void LossScale::update(bool finite) {
  if (!active_) return;
  if (!finite) {
    value_ /= 2;
    finite_updates_ = 0;
  } else if (++finite_updates_ == kGrowthInterval) {
    value_ *= 2;
    finite_updates_ = 0;
  }
}

std::map<std::string, std::string> LossScale::scalars() const {
  if (!active_) return {};
  return {{kValue, write_exact(value_)}, {kFiniteUpdates, std::to_string(finite_updates_)}};
}

void LossScale::restore(const std::map<std::string, std::string>& scalars) {
  if (!active_ || !scalars.contains(kValue) || !scalars.contains(kFiniteUpdates)) return;
  using Limits = std::numeric_limits<double>;
  value_ = real_scalar(scalars, kValue, Limits::min(), Limits::max());
  finite_updates_ = static_cast<int>(whole_scalar(scalars, kFiniteUpdates, 0, kGrowthInterval));
}

}  // namespace syncbn
