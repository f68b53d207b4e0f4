#include "train/rank_device.hpp"

namespace syncbn {

RankDevice::RankDevice(const ops::Backend& exchange, int local_workers)
    : exchange_(exchange), workers_(static_cast<std::size_t>(local_workers)) {}

int RankDevice::make_marks(int count) {
  const auto first = static_cast<int>(marks_.size());
  for (int i = 0; i < count; ++i) marks_.push_back(exchange_.device()->make_mark());
  return first;
}

void* RankDevice::allocate(std::size_t bytes) {
  return memory_.emplace_back(exchange_.allocate(bytes)).data();
}

}  // namespace syncbn
