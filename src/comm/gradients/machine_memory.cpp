#include "comm/gradients/machine_memory.hpp"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <string>
#include <vector>

#include "comm/order/shards.hpp"
#include "comm/rank_context.hpp"
#include "core/page.hpp"

namespace syncbn {

namespace {

// Limits of the address space reserved before its needed size is known: 256 GiB, or an eighth of a limit on address
// space, but at least 64 MiB.
constexpr std::size_t kMostBytes = std::size_t{1} << 38, kLeastBytes = std::size_t{1} << 26, kShareOfLimit = 8;
constexpr std::size_t kGrain = 64;

std::byte* map(std::byte* at, std::size_t bytes, int protection, int flags) {
  void* data = mmap(at, bytes, protection, flags | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return data == MAP_FAILED ? nullptr : static_cast<std::byte*>(data);
}

std::size_t most_to_reserve() {
  rlimit limit{};
  if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return kMostBytes;
  return std::clamp<std::size_t>(limit.rlim_cur / kShareOfLimit / page_bytes() * page_bytes(), kLeastBytes, kMostBytes);
}

}  // namespace

MachineMemory::MachineMemory(const World& world, bool share)
    : context_(world.context()),
      may_be_shared_(share && world.ranks() > 1 && context_->topology().nodes_are_contiguous()),
      reserved_(most_to_reserve()) {
  set_ranks(share ? context_->topology().ranks_here() : context_->topology().this_rank());
  while (!data_ && reserved_ >= kLeastBytes) {
    data_ = map(nullptr, reserved_, PROT_NONE, MAP_NORESERVE);
    if (!data_) reserved_ = reserved_ / 2 / page_bytes() * page_bytes();
  }
}

MachineMemory::~MachineMemory() {
  if (data_) munmap(data_, reserved_);
}

std::byte* MachineMemory::take(std::size_t bytes) {
  if (committed_) throw Error("memory of a machine is taken after commit()");
  std::byte* place = data_ ? data_ + taken_ : nullptr;
  taken_ += round_up(bytes, kGrain);
  return place;  // commit() says whether there is room
}

void MachineMemory::commit() {
  if (committed_) throw Error("memory of a machine is committed twice");
  committed_ = true;
  const std::size_t bytes = round_up(taken_, page_bytes());
  const bool fits = data_ && bytes <= reserved_;
  const std::vector<std::string> plans =
      context_->control().all_gather(fmt::format("{} {}", bytes, fits ? "" : "no room"), "planned memory");
  const std::vector<int>& nodes = context_->topology().nodes;
  for (std::size_t rank = 0; may_be_shared_ && rank < plans.size(); ++rank) {
    const std::string& first = plans[nodes[rank]];
    if (std::stoull(plans[rank]) != std::stoull(first))
      throw Error(fmt::format("{} plans {} bytes of common memory, the first of its machine {}",
                              context_->topology().describe_rank(static_cast<int>(rank)), std::stoull(plans[rank]),
                              std::stoull(first)));
  }
  require_room(plans, bytes);
  if (bytes == 0) return;
  munmap(data_ + bytes, reserved_ - bytes);
  reserved_ = bytes;

  const bool shared = is_shared() && context_->transport().share(ranks_, data_, bytes);
  const bool alone = is_shared() && !shared;
  if (!shared) set_ranks(context_->topology().this_rank());
  const bool got = shared || map(data_, bytes, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_NORESERVE);
  const std::vector<std::string> outcomes =
      context_->control().all_gather(got ? alone ? "alone" : "" : "no room", "memory");
  require_room(outcomes, bytes);
  lacks_room_ = std::count(outcomes.begin(), outcomes.end(), "alone") > 0;
}

void MachineMemory::set_ranks(const detail::IndexRange& ranks) {
  const detail::Topology& topology = context_->topology();
  ranks_ = ranks;
  workers_ = {topology.of_rank(ranks.first).first, topology.of_rank(ranks.last - 1).last};
}

void MachineMemory::require_room(const std::vector<std::string>& answers, std::size_t bytes) const {
  for (std::size_t rank = 0; rank < answers.size(); ++rank)
    if (answers[rank].ends_with("no room"))
      throw Error(fmt::format("{} has no room for {} bytes of weights and gradients: raise its limits (ulimit -v)",
                              context_->topology().describe_rank(static_cast<int>(rank)), bytes),
                  ExitCode::unavailable);
}

MachineMemory::Barrier::Barrier(const MachineMemory& memory, const Worker& worker) : worker_(worker) {
  if (!memory.may_be_shared_) return;
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
