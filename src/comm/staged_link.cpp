#include "comm/staged_link.hpp"

namespace syncbn::detail {

namespace {
constexpr int kQueue = GradientMemory::kExchange;
}

StagedLink::StagedLink(std::unique_ptr<Link> link, GradientMemory& memory, int mark, std::size_t blocks,
                       std::int64_t max_count)
    : link_(std::move(link)), memory_(memory), mark_(mark) {
  const std::size_t bytes = static_cast<std::size_t>(max_count) * sizeof(float);
  for (std::size_t i = 0; i < blocks; ++i) blocks_.emplace_back(bytes);
  result_ = std::make_shared<Buffer>(bytes);
  for (const Buffer& block : blocks_) pinned_.push_back(memory_.pin(block.data(), bytes));
  pinned_.push_back(memory_.pin(result_->data(), bytes));
}

StagedLink::~StagedLink() = default;

void StagedLink::start(const Header& header, std::span<std::byte* const> blocks, const Target& result) {
  header_ = header;
  place_ = reinterpret_cast<float*>(result.data);
  for (std::size_t i = 0; i < blocks.size(); ++i)
    memory_.download(reinterpret_cast<const float*>(blocks[i]), blocks_[i].as<float>(), header.count, kQueue);
  memory_.set(mark_, kQueue);
  stage_ = Stage::downloading;
}

bool StagedLink::poll() {
  try {
    return go_on();
  } catch (const DeviceError& error) {
    throw error.at("at " + describe(header_));
  }
}

// The result of the operation before may still be on its way to the device; the downloads of this one are behind it in
// the queue.
bool StagedLink::go_on() {
  if (stage_ == Stage::downloading) {
    if (!memory_.passed(mark_)) return false;
    std::vector<std::byte*> here;
    for (const Buffer& block : blocks_) here.push_back(block.data());
    link_->start(header_, here, {result_, result_->data()});
    stage_ = Stage::exchanging;
  }
  if (stage_ == Stage::exchanging) {
    if (!link_->poll()) return false;
    memory_.upload(result_->as<float>(), place_, header_.count, kQueue);
    stage_ = Stage::idle;
  }
  return true;
}

std::string StagedLink::missing() const {
  return stage_ == Stage::downloading ? "its own device" : link_->missing();
}

}  // namespace syncbn::detail
