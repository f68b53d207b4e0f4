#pragma once

#include <atomic>
#include <memory>

#include "comm/member.hpp"
#include "comm/rank_context.hpp"
#include "syncbn/comm/world.hpp"

namespace syncbn::detail {

class WorldState {
 public:
  static const std::shared_ptr<RankContext>& context_of(const World& world) { return world.state_->context; }

  std::shared_ptr<RankContext> context;
  const World* world = nullptr;  ///< set while it runs
  std::atomic<bool> running = false;
};

}  // namespace syncbn::detail

namespace syncbn {

struct Worker::Impl {
  std::shared_ptr<detail::RankContext> context;
  const World* world;
  int local_index;
  Communicator all;
  Communicator local;

  int index() const { return context->topology().local().first + local_index; }
  Communicator join(std::shared_ptr<detail::Channel> channel) const;
  /// Makes sure that all workers are about to open the same channels.
  void agree(detail::Operation operation, int count) const;
};

}  // namespace syncbn
