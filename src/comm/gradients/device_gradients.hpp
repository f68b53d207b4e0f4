#pragma once

#include <atomic>
#include <memory>
#include <span>
#include <vector>

#include "comm/devices/exchange_device.hpp"
#include "comm/gradients/gradients.hpp"
#include "comm/order/tree.hpp"
#include "comm/rank_context.hpp"
#include "core/slice.hpp"

namespace syncbn::detail {

/// Gradients in the memory of this rank's device, which sums them in its own time: what is "brought" or "folded" here
/// has been queued.
class DeviceGradients final : public Gradients {
 public:
  /// `length` values per worker; `buckets` are ranges of them.
  DeviceGradients(RankContext& context, std::span<const Slice> buckets, std::int64_t length,
                  std::shared_ptr<ExchangeDevice> device);

  float* gradient(int local_index) override { return gradients_[local_index]; }
  Target result() override { return {nullptr, reinterpret_cast<std::byte*>(result_)}; }
  bool complete() const override { return context_.topology().ranks == 1; }
  const std::vector<int>& rest() const override { return plan_.rest; }

  void written(int bucket, int local_index) override;
  void bring(int bucket, std::uint64_t round, const Header& header, int by) override;
  bool brought(int bucket, std::uint64_t round) const override;
  bool fold(int bucket, std::uint64_t round, int by) override;
  bool folded(int bucket, std::uint64_t round) const override;

  std::unique_ptr<Link> extend(std::unique_ptr<Link> link) override;
  void prepare_thread() override { device_->prepare_thread(); }

 private:
  /// Numbers of the last rounds.
  struct Progress {
    std::atomic<std::uint64_t> brought{0}, folded{0};
  };

  int workers() const { return static_cast<int>(gradients_.size()); }
  /// The mark that is passed when this worker's bucket is written.
  int mark_of(int local_index, int bucket) const { return first_mark_ + bucket * workers() + local_index; }

  RankContext& context_;
  const std::shared_ptr<ExchangeDevice> device_;
  const std::vector<Slice> buckets_;
  const FoldPlan plan_;
  std::vector<float*> gradients_;
  float* result_ = nullptr;
  int first_mark_ = 0;
  std::vector<Progress> progress_;  // per bucket
};

}  // namespace syncbn::detail
