#pragma once

#include <memory>
#include <vector>

#include "comm/devices/exchange_device.hpp"
#include "comm/links/transport.hpp"

namespace syncbn::detail {

/// Exchanges f32 values in a device's memory with other ranks through CPU memory. Blocks and results are in the
/// device's memory; work there is queued in the exchange's queue.
class StagedLink final : public Link {
 public:
  /// For up to `blocks` blocks of `max_count` values.
  StagedLink(std::unique_ptr<Link> link, ExchangeDevice& device, std::size_t blocks, std::int64_t max_count);
  ~StagedLink() override;

  void start(const Header& header, std::span<std::byte* const> blocks, const Target& result) override;
  bool poll() override;
  std::string missing() const override;
  int hops() const override { return link_->hops(); }

 private:
  enum class Stage { idle, downloading, exchanging };
  bool go_on();

  std::unique_ptr<Link> link_;
  ExchangeDevice& device_;
  const int mark_;
  std::vector<Buffer> blocks_;
  std::shared_ptr<Buffer> result_;
  std::vector<std::shared_ptr<void>> pinned_;
  Stage stage_ = Stage::idle;
  Header header_;
  std::byte* place_ = nullptr;  // where the result goes, on the device
};

}  // namespace syncbn::detail
