#include <fmt/format.h>

#include "comm/world_state.hpp"

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

}  // namespace

Communicator Worker::Impl::join(std::shared_ptr<detail::Channel> channel) const {
  if (!channel || channel->members().size() == 1) return Communicator();
  return Communicator(std::make_shared<detail::Member>(context, std::move(channel), index()));
}

void Worker::Impl::agree(Operation operation, int count) const {
  if (context->topology().workers == 1) return;
  Header header = Header::make(operation, {"world"});
  header.count = count;
  detail::Member(context, context->all_ptr(), index()).collective(header, {});
}

Worker::Worker(detail::WorldState& state, int local_index) : impl_(std::make_unique<Impl>()) {
  impl_->context = state.context;
  impl_->world = state.world;
  impl_->local_index = local_index;
  impl_->all = impl_->join(state.context->all_ptr());
  impl_->local = impl_->join(state.context->local_ptr());
}

Worker::~Worker() = default;

int Worker::index() const {
  return impl_->index();
}
int Worker::local_index() const {
  return impl_->local_index;
}
const World& Worker::world() const {
  return *impl_->world;
}
const Communicator& Worker::all() const {
  return impl_->all;
}

Communicator Worker::duplicate() const {
  impl_->agree(Operation::duplicate, 0);
  return impl_->join(impl_->context->open(impl_->local_index, {impl_->context->topology().all()}));
}

Communicator Worker::group(int workers_per_group) const {
  impl_->agree(Operation::group, workers_per_group);
  const int workers = impl_->context->topology().workers;
  if (workers_per_group < 1 || workers % workers_per_group != 0)
    throw Error(
        fmt::format("group of {} does not divide {} workers; use {}", workers_per_group, workers, divisors(workers)),
        ExitCode::usage);
  return impl_->join(impl_->context->open(impl_->local_index, impl_->context->topology().groups(workers_per_group)));
}

Communicator Worker::node_group() const {
  impl_->agree(Operation::node_group, 0);
  return impl_->join(impl_->context->open(impl_->local_index, impl_->context->topology().by_node()));
}

void Worker::local_barrier(const Tag& tag) const {
  impl_->local.barrier(tag);
}

}  // namespace syncbn
