#include "comm/devices/device_sums.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "comm/devices/device_peers.hpp"
#include "comm/order/shards.hpp"
#include "comm/order/tree.hpp"
#include "comm/rank_context.hpp"

namespace syncbn {

namespace {

using detail::Fold;
using detail::FoldPlan;
using detail::IndexRange;
using detail::JointPlan;
using detail::Party;
using detail::RankContext;

constexpr int kQueue = ExchangeDevice::kExchange;
/// Rows begin at multiples of this many values, so that they stay aligned.
constexpr std::int64_t kRowGrain = 32;

}  // namespace

DeviceSums::DeviceSums(std::shared_ptr<RankContext> context, const std::vector<IndexRange>& all_groups,
                       std::shared_ptr<ExchangeDevice> device, std::int64_t max_count)
    : context_(std::move(context)), device_(std::move(device)), stride_(round_up(max_count, kRowGrain)) {
  const IndexRange local = context_->topology().local();
  first_mark_ = device_->make_marks(local.size());
  for (const IndexRange& members : all_groups)
    if (detail::intersect(members, local).size() > 0) groups_.push_back(plan(members));
  for (Group& group : groups_) {
    for (double*& values : group.values)
      values = static_cast<double*>(device_->allocate(static_cast<std::size_t>(group.rows * stride_) * sizeof(double)));
    group.mark = device_->make_marks(1);
  }
}

DeviceSums::Group DeviceSums::plan(const IndexRange& members) const {
  const detail::Topology& topology = context_->topology();
  Group group;
  group.local = detail::intersect(members, topology.local());
  group.rows = group.local.size();
  const FoldPlan own = detail::fold_leaves(members, group.local);
  for (const Fold& fold : own.folds) group.here.emplace_back(fold.into, fold.from);
  const std::vector<Party> parties = topology.parties(members);
  const JointPlan joint = detail::fold_parties(members, parties);
  for (std::size_t i = 0; i < parties.size(); ++i) {
    const int rank = parties[i].rank;
    if (rank != topology.rank) group.others.push_back(rank);
    for (int node = 0; node < joint.nodes[i]; ++node)
      group.parts.push_back({rank, rank == topology.rank ? own.rest[node] : group.rows++});
  }
  const auto row_of = [&](int part) { return group.parts[part].row; };
  for (const Fold& fold : joint.plan.folds) group.across.emplace_back(row_of(fold.into), row_of(fold.from));
  group.result = row_of(joint.plan.rest[0]);
  return group;
}

/// Queues the sum; called by the last member to arrive.
void DeviceSums::add_up(const Group& group, int round, std::int64_t count) {
  const std::lock_guard lock(mutex_);
  double* rows = group.values[round];
  for (int worker = group.local.first; worker < group.local.last; ++worker)
    device_->follow(first_mark_ + worker - context_->topology().local().first, kQueue);
  device_->add_rows(rows, stride_, group.here, count, kQueue);
  if (!group.others.empty()) exchange(group, rows, count);
  device_->set(group.mark, kQueue);
}

void DeviceSums::exchange(const Group& group, double* rows, std::int64_t count) {
  const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(double);
  const int own = context_->topology().rank;
  std::vector<DevicePeers::Transfer> sends, receives;
  for (const Part& part : group.parts) {
    double* row = rows + part.row * stride_;
    if (part.rank != own) {
      receives.push_back({part.rank, row, bytes});
      continue;
    }
    for (const int rank : group.others) sends.push_back({rank, row, bytes});
  }
  context_->throw_if_failed();
  peers_->exchange(sends, receives);
  detail::wait_until_queued(*peers_, *context_);
  device_->add_rows(rows, stride_, group.across, count, kQueue);
}

/// Throws errors that NCCL has detected in the meantime.
void DeviceSums::check_peers() {
  const std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock) return;
  context_->throw_if_failed();
  peers_->queued();
}

void DeviceSums::give_up(const std::exception_ptr& failure) noexcept {
  context_->fail(failure);
  const std::lock_guard lock(mutex_);
  if (peers_) peers_->abandon();
}

/// One worker's membership in its group.
class DeviceSums::Seat final : public GroupSums {
 public:
  Seat(DeviceSums& owner, const Worker& worker, Communicator communicator)
      : sums_(owner),
        group_(*std::find_if(sums_.groups_.begin(), sums_.groups_.end(),
                             [&](const Group& g) { return g.local.contains(worker.index()); })),
        members_(std::move(communicator)),
        queue_(worker.local_index()),
        row_(worker.index() - group_.local.first) {}

  void start(const double* values, std::int64_t count, double own_head, const Tag& tag) override {
    round_ = 1 - round_;
    summed_ = count;
    heads_ = {own_head, static_cast<double>(count)};
    layer_ = tag.layer;
    step_ = tag.step;
    sums_.device_->copy(values, rows() + row_ * sums_.stride_, static_cast<std::size_t>(count) * sizeof(double),
                        queue_);
    sums_.device_->set(sums_.first_mark_ + queue_, queue_);
    // May run on any member of the rank, even after this one has left.
    members_.start_all_reduce(heads_, Reduce::sum, tag, [&sums = sums_, &group = group_, round = round_, count] {
      sums.add_up(group, round, count);
    });
  }

  Sum finish() override {
    members_.finish_all_reduce();
    if (heads_[1] != static_cast<double>(summed_ * members_.size()))
      sums_.context_->fail_with(
          Error(fmt::format("worker {} brings {} values to {}, all {} members {}", group_.local.first + row_, summed_,
                            where(), members_.size(), heads_[1])));
    sums_.device_->follow(group_.mark, queue_);
    return {rows() + group_.result * sums_.stride_, heads_[0]};
  }

  void settle() override {
    if (group_.others.empty()) return;
    detail::RemoteWait wait(*sums_.context_);
    bool waited = false;
    for (; !sums_.device_->passed(group_.mark); sums_.context_->crew().pause(queue_, detail::kRemoteNap)) {
      waited = true;
      sums_.check_peers();
      detail::check_devices(wait, sums_.context_->topology(), where());
    }
    if (waited) sums_.context_->crew().resumed(queue_);
  }

 private:
  std::string where() const { return fmt::format("layer '{}' step {}", layer_, step_); }

  double* rows() const { return group_.values[round_]; }

  DeviceSums& sums_;
  const Group& group_;
  const Communicator members_;
  const int queue_, row_;
  int round_ = 0;
  std::int64_t summed_ = 0, step_ = 0;
  std::string layer_;
  std::array<double, 2> heads_{};  // the caller's number, and how many values it brings
};

std::unique_ptr<DeviceSums> DeviceSums::make(World& world, int workers_per_group,
                                             std::shared_ptr<ExchangeDevice> device, std::int64_t max_count) {
  const detail::Topology& topology = world.context()->topology();
  const std::vector<IndexRange> groups =
      workers_per_group > 0 ? topology.groups(workers_per_group) : topology.by_node();
  std::unique_ptr<DeviceSums> sums(new DeviceSums(world.context(), groups, std::move(device), max_count));
  if (std::any_of(groups.begin(), groups.end(),
                  [&](const IndexRange& members) { return topology.parties(members).size() > 1; })) {
    sums->peers_ = detail::connect_devices(*sums->context_, *sums->device_).peers;
    if (!sums->peers_) return nullptr;
  }
  return sums;
}

std::unique_ptr<GroupSums> DeviceSums::join(const Worker& worker, const Communicator& group) {
  return std::make_unique<Seat>(*this, worker, group);
}

}  // namespace syncbn
