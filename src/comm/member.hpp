#pragma once

#include <memory>
#include <span>

#include "comm/channel.hpp"

namespace syncbn::detail {

/// One worker's place in a channel.
class Member {
 public:
  Member(std::shared_ptr<RankContext> context, std::shared_ptr<Channel> channel, int worker)
      : context_(std::move(context)), channel_(std::move(channel)), worker_(worker), seat_(channel_->seat_of(worker)) {}

  const Channel& channel() const { return *channel_; }
  int index() const { return worker_ - channel_->members().first; }

  void collective(const Header& header, std::span<std::byte> values) {
    start(header, values);
    finish();
  }
  void start(const Header& header, std::span<std::byte> values, std::function<void()> complete = nullptr) {
    channel_->start(seat_, header, values, std::move(complete));
  }
  void finish() { channel_->finish(seat_); }
  double waited_seconds() const { return channel_->waited_seconds(seat_); }

 private:
  std::shared_ptr<RankContext> context_;  // outlives the channel
  std::shared_ptr<Channel> channel_;
  int worker_;
  int seat_;
};

}  // namespace syncbn::detail
