#include "train/loss_scale.hpp"

#include "core/text.hpp"

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
  const auto value = scalars.find(kValue), finite = scalars.find(kFiniteUpdates);
  if (!active_ || value == scalars.end() || finite == scalars.end()) return;
  value_ = read_exact(value->second);
  finite_updates_ = std::stoi(finite->second);
}

}  // namespace syncbn
