#pragma once

#include <memory>

#include "comm/devices/device_sums.hpp"
#include "ops/device.hpp"

namespace syncbn {

/// Group sums computed on the CPU, for devices that cannot reach each other: finish() waits for this worker's device,
/// and copies the sum back to it.
class HostSums final : public GroupSums {
 public:
  /// For up to `max_count` values at a time. The worker's backend must outlive it.
  HostSums(const ops::Backend& worker, Communicator group, std::int64_t max_count);

  void start(const double* values, std::int64_t count, double head, const Tag& tag) override;
  Sum finish() override;

 private:
  const ops::Device& device_;
  Communicator group_;
  Buffer room_;
  double* here_;  // in CPU memory: the head, which is never copied, then the values
  std::shared_ptr<void> pinned_;
  ops::Memory sum_;
  std::unique_ptr<ops::Mark> arrived_;
  std::int64_t count_ = 0;
  Tag tag_;
};

}  // namespace syncbn
