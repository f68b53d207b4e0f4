#include "syncbn/comm/machine_memory.hpp"

#include <fmt/format.h>
#include <sys/mman.h>

#include "comm/world_state.hpp"

namespace syncbn {

namespace {

// Of addresses, not of memory: room for plans of any size, as far as there is no limit on them (ulimit -v).
constexpr std::size_t kMostBytes = std::size_t{1} << 38, kLeastBytes = std::size_t{1} << 28;
constexpr std::size_t kGrain = 64, kPage = 4096;

std::byte* map(std::byte* at, std::size_t bytes, int protection, int flags) {
  void* data = mmap(at, bytes, protection, flags | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return data == MAP_FAILED ? nullptr : static_cast<std::byte*>(data);
}

std::size_t round_up(std::size_t bytes, std::size_t grain) {
  return (bytes + grain - 1) / grain * grain;
}

}  // namespace

struct MachineMemory::Impl {
  std::shared_ptr<detail::RankContext> context;
  detail::WorkerRange ranks;  // that have it in common
  detail::WorkerRange workers;
  std::byte* data = nullptr;
  std::size_t reserved = kMostBytes;
  std::size_t taken = 0;
  bool lacks_room = false;
  bool may_be_shared = false;  // on some machine; the same everywhere

  void set_ranks(const detail::WorkerRange& range) {
    ranks = range;
    workers = {context->layout().of_rank(range.first).first, context->layout().of_rank(range.last - 1).last};
  }
};

MachineMemory::MachineMemory(const World& world, bool share) : impl_(std::make_unique<Impl>()) {
  impl_->context = world.state_->context;
  const detail::Layout& layout = impl_->context->layout();
  impl_->may_be_shared = share && layout.ranks > 1 && layout.machines_are_neighbourhoods();
  impl_->set_ranks(share ? layout.ranks_here() : detail::WorkerRange{layout.rank, layout.rank + 1});
  while (!impl_->data && impl_->reserved >= kLeastBytes) {
    impl_->data = map(nullptr, impl_->reserved, PROT_NONE, MAP_NORESERVE);
    if (!impl_->data) impl_->reserved /= 2;
  }
}

MachineMemory::~MachineMemory() {
  if (impl_->data) munmap(impl_->data, impl_->reserved);
}

std::byte* MachineMemory::take(std::size_t bytes) {
  std::byte* place = impl_->data + impl_->taken;
  const std::size_t taken = impl_->taken + round_up(bytes, kGrain);
  if (!impl_->data || taken > impl_->reserved)
    throw Error(fmt::format("no addresses for {} bytes more than {}: raise the limit of this process (ulimit -v)",
                            bytes, impl_->taken),
                ExitCode::unavailable);
  impl_->taken = taken;
  return place;
}

void MachineMemory::commit() {
  const std::size_t bytes = round_up(impl_->taken, kPage);
  if (bytes == 0) return;
  if (is_shared()) {
    if (impl_->context->transport().share(impl_->ranks, impl_->data, bytes)) return;
    impl_->lacks_room = true;
  }
  const int me = impl_->context->layout().rank;
  impl_->set_ranks({me, me + 1});
  if (!map(impl_->data, bytes, PROT_READ | PROT_WRITE, MAP_FIXED))
    throw Error(fmt::format("no memory for {} bytes of weights and gradients", bytes), ExitCode::unavailable);
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
    worker_.local_barrier();
}

}  // namespace syncbn
