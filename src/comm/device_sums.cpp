#include "comm/device_sums.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <string>
#include <vector>

#include "comm/device_peers.hpp"
#include "comm/rank_context.hpp"
#include "comm/shards.hpp"
#include "comm/tree.hpp"

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

struct DeviceSums::Impl {
  /// A node of the tree over a group: the rank that brings it, and its row.
  struct Part {
    int rank;
    int row;
  };
  /// A group with workers of this rank. Rows: those of its local workers, then the nodes of the other ranks.
  struct Group {
    IndexRange local;                               // members
    std::vector<std::pair<int, int>> here, across;  // rows to add, before and after the exchange with other ranks
    std::vector<Part> parts;
    std::vector<int> others;  // ranks with members
    int rows = 0, result = 0;
    // Two rounds are enough: when a worker brings its values of round s + 2, all have queued what reads those of s.
    std::array<double*, 2> values{};
    int mark = 0;  // behind the sum
  };

  struct Seat;

  Impl(std::shared_ptr<RankContext> rank_context, const std::vector<IndexRange>& all_groups,
       std::shared_ptr<ExchangeDevice> on_device, std::int64_t max_count);
  Group plan(const IndexRange& members) const;
  void add_up(const Group& group, int round, std::int64_t count);
  void exchange(const Group& group, double* rows, std::int64_t count);
  void give_up(const std::exception_ptr& failure) noexcept;
  void check_peers();

  std::shared_ptr<RankContext> context;
  std::shared_ptr<ExchangeDevice> device;
  std::unique_ptr<DevicePeers> peers;  // null: no group has workers of several ranks
  std::int64_t stride;
  int first_mark = 0;  // of each local worker: what it brings is in its row
  std::vector<Group> groups;
  std::mutex mutex;  // the exchange's queue, and peers
};

DeviceSums::Impl::Impl(std::shared_ptr<RankContext> rank_context, const std::vector<IndexRange>& all_groups,
                       std::shared_ptr<ExchangeDevice> on_device, std::int64_t max_count)
    : context(std::move(rank_context)), device(std::move(on_device)), stride(round_up(max_count, kRowGrain)) {
  const IndexRange local = context->topology().local();
  first_mark = device->make_marks(local.size());
  for (const IndexRange& members : all_groups)
    if (detail::intersect(members, local).size() > 0) groups.push_back(plan(members));
  for (Group& group : groups) {
    for (double*& values : group.values)
      values = static_cast<double*>(device->allocate(static_cast<std::size_t>(group.rows * stride) * sizeof(double)));
    group.mark = device->make_marks(1);
  }
}

DeviceSums::Impl::Group DeviceSums::Impl::plan(const IndexRange& members) const {
  const detail::Topology& topology = context->topology();
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
      group.parts.push_back({rank, rank == topology.rank ? own.rest[static_cast<std::size_t>(node)] : group.rows++});
  }
  const auto row_of = [&](int part) { return group.parts[static_cast<std::size_t>(part)].row; };
  for (const Fold& fold : joint.plan.folds) group.across.emplace_back(row_of(fold.into), row_of(fold.from));
  group.result = row_of(joint.plan.rest[0]);
  return group;
}

/// By the last member to come.
void DeviceSums::Impl::add_up(const Group& group, int round, std::int64_t count) {
  const std::lock_guard lock(mutex);
  double* rows = group.values[static_cast<std::size_t>(round)];
  for (int worker = group.local.first; worker < group.local.last; ++worker)
    device->follow(first_mark + worker - context->topology().local().first, kQueue);
  device->add_rows(rows, stride, group.here, count, kQueue);
  if (!group.others.empty()) exchange(group, rows, count);
  device->set(group.mark, kQueue);
}

void DeviceSums::Impl::exchange(const Group& group, double* rows, std::int64_t count) {
  const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(double);
  const int own = context->topology().rank;
  std::vector<DevicePeers::Transfer> sends, receives;
  for (const Part& part : group.parts) {
    double* row = rows + part.row * stride;
    if (part.rank != own) {
      receives.push_back({part.rank, row, bytes});
      continue;
    }
    for (const int rank : group.others) sends.push_back({rank, row, bytes});
  }
  context->throw_if_failed();
  peers->exchange(sends, receives);
  detail::DeviceWait wait(*context);
  detail::wait_until_queued(*peers, wait);
  device->add_rows(rows, stride, group.across, count, kQueue);
}

/// Throws what NCCL has noticed meanwhile.
void DeviceSums::Impl::check_peers() {
  const std::unique_lock lock(mutex, std::try_to_lock);
  if (!lock) return;
  context->throw_if_failed();
  peers->queued();
}

void DeviceSums::Impl::give_up(const std::exception_ptr& failure) noexcept {
  context->fail(failure);
  const std::lock_guard lock(mutex);
  if (peers) peers->abandon();
}

/// One worker in its group.
struct DeviceSums::Impl::Seat final : GroupSums {
  Seat(Impl& owner, const Worker& worker, Communicator communicator)
      : all(owner),
        group(*std::find_if(all.groups.begin(), all.groups.end(),
                            [&](const Group& g) { return g.local.contains(worker.index()); })),
        members(std::move(communicator)),
        queue(worker.local_index()),
        row(worker.index() - group.local.first) {}

  void start(const double* values, std::int64_t count, double own_head, const Tag& tag) override {
    round = 1 - round;
    summed = count;
    heads = {own_head, static_cast<double>(count)};
    layer = tag.layer;
    step = tag.step;
    all.device->copy(values, group.values[at(round)] + row * all.stride,
                     static_cast<std::size_t>(count) * sizeof(double), queue);
    all.device->set(all.first_mark + queue, queue);
    // By any member of the rank, when this one may be gone already.
    members.start_all_reduce(heads, Reduce::sum, tag, [&sums = all, &shared = group, which = round, count] {
      sums.add_up(shared, which, count);
    });
  }

  Sum finish() override {
    members.finish_all_reduce();
    if (heads[1] != static_cast<double>(summed * members.size()))
      all.context->fail_with(Error(fmt::format("worker {} brings {} values to {}, all {} members {}",
                                               group.local.first + row, summed, where(), members.size(), heads[1])));
    all.device->follow(group.mark, queue);
    return {group.values[at(round)] + group.result * all.stride, heads[0]};
  }

  void settle() override {
    if (group.others.empty()) return;
    detail::DeviceWait wait(*all.context);
    bool waited = false;
    for (; !all.device->passed(group.mark); all.context->crew().pause(queue, detail::kRemoteNap)) {
      waited = true;
      all.check_peers();
      wait.check("the sum of " + where());
    }
    if (waited) all.context->crew().resumed(queue);
  }

  std::string where() const { return fmt::format("layer '{}' step {}", layer, step); }

  static std::size_t at(int i) { return static_cast<std::size_t>(i); }

  Impl& all;
  const Group& group;
  const Communicator members;
  const int queue, row;
  int round = 0;
  std::int64_t summed = 0, step = 0;
  std::string layer;
  std::array<double, 2> heads{};  // what the caller brings, and how many values
};

DeviceSums::DeviceSums(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
DeviceSums::~DeviceSums() = default;

std::unique_ptr<DeviceSums> DeviceSums::make(World& world, int workers_per_group,
                                             std::shared_ptr<ExchangeDevice> device, std::int64_t max_count) {
  const std::shared_ptr<RankContext>& context = world.context();
  const detail::Topology& topology = context->topology();
  const std::vector<IndexRange> groups =
      workers_per_group > 0 ? topology.groups(workers_per_group) : topology.by_node();
  auto impl = std::make_unique<Impl>(context, groups, std::move(device), max_count);
  if (std::any_of(groups.begin(), groups.end(),
                  [&](const IndexRange& members) { return topology.parties(members).size() > 1; })) {
    impl->peers = detail::connect_devices(*context, *impl->device).peers;
    if (!impl->peers) return nullptr;
  }
  return std::unique_ptr<DeviceSums>(new DeviceSums(std::move(impl)));
}

std::unique_ptr<GroupSums> DeviceSums::join(const Worker& worker, const Communicator& group) {
  return std::make_unique<Impl::Seat>(*impl_, worker, group);
}

bool DeviceSums::between_ranks() const {
  return impl_->peers != nullptr;
}

void DeviceSums::give_up(const std::exception_ptr& failure) noexcept {
  impl_->give_up(failure);
}

}  // namespace syncbn
