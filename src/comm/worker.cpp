#include <fmt/format.h>

#include "comm/channel.hpp"
#include "syncbn/comm/world.hpp"

namespace syncbn {

using detail::Header;
using detail::Operation;

namespace {

std::string divisors(int n) {
  std::string list;
  for (int d = 1; d < n; ++d)
    if (n % d == 0) list += fmt::format("{}{}", list.empty() ? "" : ", ", d);
  return list.empty() ? std::to_string(n) : fmt::format("{} or {}", list, n);
}

/// Checks that all workers are about to open the same channels.
void agree(detail::RankContext& context, int worker, Operation operation, int count) {
  if (context.topology().workers == 1) return;
  Header header = Header::make(operation, {"world"});
  header.count = count;
  context.channels().all()->collective(worker, header, {});
}

}  // namespace

Worker::Worker(const World& world, int local_index) : world_(world), local_index_(local_index) {
  all_ = join(world.context()->channels().all());
  local_ = join(world.context()->channels().local());
}

Communicator Worker::join(std::shared_ptr<detail::Channel> channel) const {
  if (!channel || channel->members().size() == 1) return Communicator();
  // The communicator also keeps the context alive, which must outlive the channel.
  const auto both = std::make_shared<std::pair<std::shared_ptr<detail::RankContext>, std::shared_ptr<detail::Channel>>>(
      world_.context(), std::move(channel));
  return Communicator({both, both->second.get()}, index());
}

int Worker::index() const {
  return world_.first_worker() + local_index_;
}

Communicator Worker::duplicate() const {
  detail::RankContext& context = *world_.context();
  agree(context, index(), Operation::duplicate, 0);
  return join(context.channels().open(local_index_, {context.topology().all()}));
}

Communicator Worker::group(int workers_per_group) const {
  detail::RankContext& context = *world_.context();
  agree(context, index(), Operation::group, workers_per_group);
  const int workers = context.topology().workers;
  if (workers_per_group < 1 || workers % workers_per_group != 0)
    throw Error(
        fmt::format("group of {} does not divide {} workers; use {}", workers_per_group, workers, divisors(workers)),
        ExitCode::usage);
  return join(context.channels().open(local_index_, context.topology().groups(workers_per_group)));
}

Communicator Worker::node_group() const {
  detail::RankContext& context = *world_.context();
  agree(context, index(), Operation::node_group, 0);
  return join(context.channels().open(local_index_, context.topology().by_node()));
}

void Worker::local_barrier(const Tag& tag) const {
  local_.barrier(tag);
}

}  // namespace syncbn
