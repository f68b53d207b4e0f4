#include "comm/channels.hpp"

#include "comm/channel.hpp"
#include "comm/rank_context.hpp"

namespace syncbn::detail {

Channels::Channels(RankContext& context)
    : context_(context),
      all_(std::make_shared<Channel>(context, kAll, context.topology().all())),
      local_(std::make_shared<Channel>(context, kLocal, context.topology().local())),
      calls_(static_cast<std::size_t>(context.topology().local().size())) {}

std::shared_ptr<Channel> Channels::open(int local_index, const std::vector<IndexRange>& ranges) {
  const IndexRange local = context_.topology().local();
  std::lock_guard lock(mutex_);
  const int number = calls_[local_index]++;
  Opening& opening = openings_[number];
  if (opening.to_fetch == 0) {  // the first local worker to get here opens the channels of all, in ascending order
    opening.to_fetch = local.size();
    for (const IndexRange& range : ranges) {
      const int id = next_id_++;
      if (range.size() > 1 && intersect(range, local).size() > 0)
        opening.channels.push_back(std::make_shared<Channel>(context_, id, range));
    }
  }
  std::shared_ptr<Channel> mine;
  for (const auto& channel : opening.channels)
    if (channel->members().contains(local.first + local_index)) mine = channel;
  if (--opening.to_fetch == 0) openings_.erase(number);
  return mine;
}

}  // namespace syncbn::detail
