#include "comm/devices/staged_link.hpp"

#include "core/page.hpp"

namespace syncbn::detail {

namespace {
constexpr int kQueue = ExchangeDevice::kExchange;
}

StagedLink::StagedLink(std::unique_ptr<Link> link, ExchangeDevice& device, std::size_t blocks, std::int64_t max_count)
    : link_(std::move(link)), device_(device), mark_(device.make_marks(1)) {
  const std::size_t bytes = static_cast<std::size_t>(max_count) * sizeof(float);
  for (std::size_t i = 0; i < blocks; ++i) blocks_.emplace_back(bytes, page_bytes());
  result_ = std::make_shared<Buffer>(bytes, page_bytes());
  for (const Buffer& block : blocks_) pinned_.push_back(device_.pin(block.data(), bytes));
  pinned_.push_back(device_.pin(result_->data(), bytes));
}

StagedLink::~StagedLink() = default;

void StagedLink::start(const Header& header, std::span<std::byte* const> blocks, const Target& result) {
  header_ = header;
  place_ = result.data;
  for (std::size_t i = 0; i < blocks.size(); ++i)
    device_.download(blocks[i], blocks_[i].data(), header.bytes(), kQueue);
  device_.set(mark_, kQueue);
  stage_ = Stage::downloading;
}

bool StagedLink::poll() {
  try {
    return go_on();
  } catch (const DeviceError& error) {
    throw error.at("at " + describe(header_));
  }
}

// The previous operation's result may still be on its way to the device; the downloads of this operation come after it
// in the queue.
bool StagedLink::go_on() {
  if (stage_ == Stage::downloading) {
    if (!device_.passed(mark_)) return false;
    std::vector<std::byte*> here;
    for (const Buffer& block : blocks_) here.push_back(block.data());
    link_->start(header_, here, {result_, result_->data()});
    stage_ = Stage::exchanging;
  }
  if (stage_ == Stage::exchanging) {
    if (!link_->poll()) return false;
    device_.upload(result_->data(), place_, header_.bytes(), kQueue);
    stage_ = Stage::idle;
  }
  return true;
}

std::string StagedLink::missing() const {
  return stage_ == Stage::downloading ? "its own device" : link_->missing();
}

}  // namespace syncbn::detail
