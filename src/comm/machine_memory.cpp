#include "syncbn/comm/machine_memory.hpp"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <string>
#include <vector>

#include "comm/shards.hpp"
#include "comm/world_state.hpp"

namespace syncbn {

namespace {

// Addresses that are reserved for a plan, until it is known how many it needs: many, unless there is a limit on them.
constexpr std::size_t kMostBytes = std::size_t{1} << 38, kLeastBytes = std::size_t{1} << 26, kShareOfLimit = 8;
constexpr std::size_t kGrain = 64, kPage = 4096;

std::byte* map(std::byte* at, std::size_t bytes, int protection, int flags) {
  void* data = mmap(at, bytes, protection, flags | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return data == MAP_FAILED ? nullptr : static_cast<std::byte*>(data);
}

std::size_t most_to_reserve() {
  rlimit limit{};
  if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return kMostBytes;
  return std::clamp<std::size_t>(limit.rlim_cur / kShareOfLimit / kPage * kPage, kLeastBytes, kMostBytes);
}

}  // namespace

struct MachineMemory::Impl {
  std::shared_ptr<detail::RankContext> context;
  detail::IndexRange ranks;  // that have it in common
  detail::IndexRange workers;
  std::byte* data = nullptr;
  std::size_t reserved = most_to_reserve();
  std::size_t taken = 0;
  bool committed = false, lacks_room = false;
  bool may_be_shared = false;  // on some machine; the same everywhere

  void set_ranks(const detail::IndexRange& range) {
    ranks = range;
    workers = {context->layout().of_rank(range.first).first, context->layout().of_rank(range.last - 1).last};
  }
};

MachineMemory::MachineMemory(const World& world, bool share) : impl_(std::make_unique<Impl>()) {
  impl_->context = world.state_->context;
  const detail::Layout& layout = impl_->context->layout();
  impl_->may_be_shared = share && layout.ranks > 1 && layout.machines_are_neighbourhoods();
  impl_->set_ranks(share ? layout.ranks_here() : detail::IndexRange{layout.rank, layout.rank + 1});
  while (!impl_->data && impl_->reserved >= kLeastBytes) {
    impl_->data = map(nullptr, impl_->reserved, PROT_NONE, MAP_NORESERVE);
    if (!impl_->data) impl_->reserved = impl_->reserved / 2 / kPage * kPage;
  }
}

MachineMemory::~MachineMemory() {
  if (impl_->data) munmap(impl_->data, impl_->reserved);
}

std::byte* MachineMemory::take(std::size_t bytes) {
  if (impl_->committed) throw Error("memory of a machine is taken after commit()");
  std::byte* place = impl_->data ? impl_->data + impl_->taken : nullptr;
  impl_->taken += detail::round_up(bytes, kGrain);
  return place;  // commit() says whether there is room
}

void MachineMemory::commit() {
  if (impl_->committed) throw Error("memory of a machine is committed twice");
  impl_->committed = true;
  const std::size_t bytes = detail::round_up(impl_->taken, kPage);
  const bool fits = impl_->data && bytes <= impl_->reserved;
  const std::vector<std::string> plans = gather(fmt::format("{} {}", bytes, fits ? "" : "no room"), "planned memory");
  const std::vector<int>& nodes = impl_->context->layout().nodes;
  for (std::size_t rank = 0; impl_->may_be_shared && rank < plans.size(); ++rank) {
    const std::string& first = plans[static_cast<std::size_t>(nodes[rank])];
    if (std::stoull(plans[rank]) != std::stoull(first))
      throw Error(fmt::format("{} plans {} bytes of common memory, the first of its machine {}",
                              impl_->context->layout().describe_rank(static_cast<int>(rank)), std::stoull(plans[rank]),
                              std::stoull(first)));
  }
  require_room(plans, bytes);
  if (bytes == 0) return;
  munmap(impl_->data + bytes, impl_->reserved - bytes);
  impl_->reserved = bytes;

  const bool shared = is_shared() && impl_->context->transport().share(impl_->ranks, impl_->data, bytes);
  const bool alone = is_shared() && !shared;
  if (!shared) {
    const int me = impl_->context->layout().rank;
    impl_->set_ranks({me, me + 1});
  }
  const bool got = shared || map(impl_->data, bytes, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_NORESERVE);
  const std::vector<std::string> outcomes = gather(got ? alone ? "alone" : "" : "no room", "memory");
  require_room(outcomes, bytes);
  impl_->lacks_room = std::count(outcomes.begin(), outcomes.end(), "alone") > 0;
}

std::vector<std::string> MachineMemory::gather(const std::string& mine, const std::string& what) const {
  return impl_->context->all_gather(mine, what);
}

void MachineMemory::require_room(const std::vector<std::string>& answers, std::size_t bytes) const {
  for (std::size_t rank = 0; rank < answers.size(); ++rank)
    if (answers[rank].ends_with("no room"))
      throw Error(fmt::format("{} has no room for {} bytes of weights and gradients: raise its limits (ulimit -v)",
                              impl_->context->layout().describe_rank(static_cast<int>(rank)), bytes),
                  ExitCode::unavailable);
}

int MachineMemory::first_worker() const {
  return impl_->workers.first;
}
int MachineMemory::workers() const {
  return impl_->workers.size();
}
bool MachineMemory::is_shared() const {
  return impl_->ranks.size() > 1;
}
bool MachineMemory::lacks_room() const {
  return impl_->lacks_room;
}

MachineMemory::Barrier::Barrier(const MachineMemory& memory, const Worker& worker) : worker_(worker) {
  if (!memory.impl_->may_be_shared) return;
  Communicator machine = worker.node_group();
  if (memory.is_shared()) team_ = std::move(machine);
}

void MachineMemory::Barrier::wait(const Tag& tag) const {
  if (team_.size() > 1)
    team_.barrier(tag);
  else
    worker_.local_barrier(tag);
}

}  // namespace syncbn
