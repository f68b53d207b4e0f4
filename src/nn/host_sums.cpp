#include "nn/host_sums.hpp"

#include "core/page.hpp"

namespace syncbn {

namespace {

std::size_t bytes_of(std::int64_t count) {
  return static_cast<std::size_t>(count) * sizeof(double);
}

}  // namespace

HostSums::HostSums(const ops::Backend& worker, Communicator group, std::int64_t max_count)
    : device_(*worker.device()),
      group_(std::move(group)),
      room_(bytes_of(max_count + 1), page_bytes()),
      here_(room_.as<double>()),
      pinned_(device_.pin(here_, room_.size())),
      sum_(worker.allocate(bytes_of(max_count))),
      arrived_(device_.make_mark()) {}

void HostSums::start(const double* values, std::int64_t count, double head, const Tag& tag) {
  device_.start_download(values, here_ + 1, bytes_of(count));
  device_.set(*arrived_);
  here_[0] = head;
  count_ = count;
  tag_ = tag;
}

// The next download is queued after the upload.
GroupSums::Sum HostSums::finish() {
  arrived_->wait();
  const std::span<double> message(here_, static_cast<std::size_t>(1 + count_));
  group_.all_reduce(message, Reduce::sum, tag_);
  device_.start_upload(message.data() + 1, sum_.data(), bytes_of(count_));
  return {sum_.as<double>(), message.front()};
}

}  // namespace syncbn
