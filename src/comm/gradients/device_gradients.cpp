#include "comm/gradients/device_gradients.hpp"

#include <algorithm>

#include "comm/devices/device_link.hpp"

namespace syncbn::detail {

namespace {

std::size_t bytes_of(std::int64_t values) {
  return static_cast<std::size_t>(values) * sizeof(float);
}

}  // namespace

DeviceGradients::DeviceGradients(RankContext& context, std::span<const Slice> buckets, std::int64_t length,
                                 std::shared_ptr<ExchangeDevice> device)
    : context_(context),
      device_(std::move(device)),
      buckets_(buckets.begin(), buckets.end()),
      plan_(fold_leaves(context.topology().all(), context.topology().local())),
      progress_(buckets.size()) {
  const auto allocate = [&] { return static_cast<float*>(device_->allocate(bytes_of(length))); };
  for (int i = 0; i < context.topology().local().size(); ++i) gradients_.push_back(allocate());
  result_ = allocate();
  first_mark_ = device_->make_marks(static_cast<int>(buckets.size()) * workers());
}

void DeviceGradients::written(int bucket, int local_index) {
  device_->set(mark_of(local_index, bucket), local_index);
}

void DeviceGradients::bring(int bucket, std::uint64_t round, const Header& /*header*/, int by) {
  const auto [begin, count] = buckets_[bucket];
  for (int local = 0; local < workers(); ++local) device_->follow(mark_of(local, bucket), by);
  for (const Fold& fold : plan_.folds) {
    const bool last = complete() && &fold == &plan_.folds.back();
    float* left = gradients_[fold.into] + begin;
    device_->add(left, gradients_[fold.from] + begin, last ? result_ + begin : left, count, by);
  }
  if (complete() && plan_.folds.empty()) device_->copy(gradients_[0] + begin, result_ + begin, bytes_of(count), by);
  device_->set(mark_of(0, bucket), by);
  device_->follow(mark_of(0, bucket), ExchangeDevice::kExchange);
  progress_[bucket].brought.store(round, std::memory_order_release);
}

bool DeviceGradients::brought(int bucket, std::uint64_t round) const {
  return progress_[bucket].brought.load(std::memory_order_acquire) >= round;
}

bool DeviceGradients::fold(int bucket, std::uint64_t round, int /*by*/) {
  std::uint64_t before = round - 1;
  return progress_[bucket].folded.compare_exchange_strong(before, round, std::memory_order_acq_rel);
}

bool DeviceGradients::folded(int bucket, std::uint64_t round) const {
  return progress_[bucket].folded.load(std::memory_order_acquire) >= round;
}

std::unique_ptr<Link> DeviceGradients::extend(std::unique_ptr<Link> link) {
  const auto longest = std::ranges::max_element(buckets_, {}, &Slice::count);
  return extend_to_devices(context_, std::move(link), *device_, plan_.rest.size(),
                           longest == buckets_.end() ? 0 : longest->count);
}

}  // namespace syncbn::detail
