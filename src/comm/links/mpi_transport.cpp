#include "comm/links/mpi_transport.hpp"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <forward_list>
#include <map>
#include <mutex>
#include <numeric>

#include "comm/links/mpi_link.hpp"
#include "comm/links/shared_link.hpp"
#include "comm/links/shared_memory.hpp"
#include "core/host_name.hpp"

namespace syncbn::detail {

namespace {

// Links use their channel numbers, from 1, as tags of messages and of new communicators, which MPI may create by
// messages with that tag. The failure tag is received from any rank at any time, so nothing else may use it.
constexpr int kFailureTag = 0;
constexpr int kMemoryTag = 32767;  // the largest tag that every MPI supports

/// An announced failure as it is sent.
struct FailureMessage {
  std::int32_t code = 0;
  std::array<char, 1020> text{};
};

/// Copies a message to memory that lives as long as the process: nobody waits for the sends of a failure, which may
/// complete after the transport is gone.
const FailureMessage& keep(const FailureMessage& message) {
  static std::mutex mutex;
  static auto& kept = *new std::forward_list<FailureMessage>;  // reachable for leak checkers
  const std::lock_guard lock(mutex);
  return kept.emplace_front(message);
}

class MpiTransport final : public Transport {
 public:
  MpiTransport(OwnedComm comm, Topology topology, Reduction reduction)
      : comm_(std::move(comm)), topology_(std::move(topology)), reduction_(reduction) {}
  ~MpiTransport() override;

  std::unique_ptr<Link> connect(int channel, const IndexRange& members) override;
  std::unique_ptr<Transport> duplicate() override;
  bool share(const IndexRange& ranks, std::byte* at, std::size_t bytes) override;
  void announce(const RemoteFailure& failure) noexcept override;
  std::optional<RemoteFailure> announced() override;
  void abandon() noexcept override { broken_ = true; }
  void abort(int code) override;

 private:
  OwnedComm comm_of(int channel, const std::vector<Party>& parties);
  std::unique_ptr<Link> share_memory(int channel, const IndexRange& members, const std::vector<Party>& parties);
  std::vector<std::vector<Party>> by_machine(const std::vector<Party>& parties) const;

  OwnedComm comm_;
  const Topology topology_;
  const Reduction reduction_;
  std::map<int, OwnedComm> native_;  // by channel, so freed in the same order on all ranks
  std::atomic<bool> broken_{false};
};

MpiTransport::~MpiTransport() {
  if (!broken_) return;
  comm_.abandon();
  for (auto& entry : native_) entry.second.abandon();
}

/// Makes a communicator of just these ranks.
OwnedComm MpiTransport::comm_of(int channel, const std::vector<Party>& parties) {
  std::vector<int> ranks;
  for (const Party& party : parties) ranks.push_back(party.rank);
  return make_comm(comm_.get(), ranks, channel);
}

/// Groups neighbouring ranks that share a machine; their workers are neighbours, too.
std::vector<std::vector<Party>> MpiTransport::by_machine(const std::vector<Party>& parties) const {
  std::vector<std::vector<Party>> machines;
  int last = -1;
  for (const Party& party : parties) {
    const int node = topology_.nodes[party.rank];
    if (node != last) machines.emplace_back();
    machines.back().push_back(party);
    last = node;
  }
  return machines;
}

/// Makes a link through shared memory; null if no two of the ranks share a machine, or one of them gets no memory.
/// Collective.
std::unique_ptr<Link> MpiTransport::share_memory(int channel, const IndexRange& members,
                                                 const std::vector<Party>& parties) {
  const std::vector<std::vector<Party>> machines = by_machine(parties);
  if (machines.size() == parties.size()) return nullptr;
  const std::vector<Party>* here = nullptr;
  std::size_t lane = 0;  // this rank's position on its machine
  std::size_t shards = parties.size();
  for (const std::vector<Party>& machine : machines) {
    shards = std::min(shards, machine.size());
    for (std::size_t i = 0; i < machine.size(); ++i)
      if (machine[i].rank == topology_.rank) here = &machine, lane = i;
  }
  SharedLink::Beyond beyond;
  if (machines.size() > 1) {
    beyond.shards = static_cast<int>(shards);
    std::vector<Party> holders;
    for (const std::vector<Party>& machine : machines)
      if (lane < shards)
        holders.push_back({machine[lane].rank, {machine.front().workers.first, machine.back().workers.last}});
    if (lane < shards)
      beyond.link = std::make_unique<MpiLink>(comm_.get(), MPI_COMM_NULL, channel, topology_, members, holders);
  }
  const OwnedComm all = comm_of(channel, parties), machine = comm_of(channel, *here);
  SharedMemory memory(machine.get(), here->size() * SharedLink::segment_bytes(machines.size() > 1));
  if (!everywhere(all.get(), static_cast<bool>(memory))) return nullptr;
  auto link = std::make_unique<SharedLink>(std::move(memory), topology_, members, *here, std::move(beyond));
  check_mpi(MPI_Barrier(all.get()), "MPI_Barrier");
  return link;
}

std::unique_ptr<Link> MpiTransport::connect(int channel, const IndexRange& members) {
  const std::vector<Party> parties = topology_.parties(members);
  if (parties.size() == 1) return nullptr;
  if (reduction_ == Reduction::native) {
    native_[channel] = comm_of(channel, parties);
    return std::make_unique<MpiLink>(comm_.get(), native_[channel].get(), channel, topology_, members, parties);
  }
  if (auto link = share_memory(channel, members, parties)) return link;
  return std::make_unique<MpiLink>(comm_.get(), MPI_COMM_NULL, channel, topology_, members, parties);
}

std::unique_ptr<Transport> MpiTransport::duplicate() {
  return std::make_unique<MpiTransport>(duplicate_of(comm_.get()), topology_, reduction_);
}

bool MpiTransport::share(const IndexRange& ranks, std::byte* at, std::size_t bytes) {
  std::vector<int> list(static_cast<std::size_t>(ranks.size()));
  std::iota(list.begin(), list.end(), ranks.first);
  const OwnedComm machine = make_comm(comm_.get(), list, kMemoryTag);
  SharedMemory memory(machine.get(), bytes, at);
  return memory.release() != nullptr;
}

void MpiTransport::announce(const RemoteFailure& failure) noexcept {
  if (broken_.exchange(true) || !mpi_is_usable()) return;
  FailureMessage message;
  message.code = static_cast<std::int32_t>(failure.code);
  std::copy_n(failure.message.begin(), std::min(failure.message.size(), message.text.size() - 1), message.text.begin());
  const FailureMessage& kept = keep(message);
  for (int rank = 0; rank < topology_.ranks; ++rank) {
    if (rank == topology_.rank) continue;
    MPI_Request request = MPI_REQUEST_NULL;
    if (MPI_Isend(&kept, sizeof kept, MPI_BYTE, rank, kFailureTag, comm_.get(), &request) == MPI_SUCCESS)
      MPI_Request_free(&request);
  }
}

std::optional<RemoteFailure> MpiTransport::announced() {
  if (topology_.ranks == 1) return std::nullopt;
  int found = 0;
  MPI_Message handle = MPI_MESSAGE_NULL;
  MPI_Status status;
  check_mpi(MPI_Improbe(MPI_ANY_SOURCE, kFailureTag, comm_.get(), &found, &handle, &status), "MPI_Improbe");
  if (!found) return std::nullopt;
  broken_ = true;
  FailureMessage message;
  check_mpi(MPI_Mrecv(&message, sizeof message, MPI_BYTE, &handle, MPI_STATUS_IGNORE), "MPI_Mrecv");
  message.text.back() = '\0';
  return RemoteFailure{fmt::format("{} failed: {}", topology_.describe_rank(status.MPI_SOURCE), message.text.data()),
                       static_cast<ExitCode>(message.code)};
}

void MpiTransport::abort(int code) {
  if (mpi_is_usable()) MPI_Abort(MPI_COMM_WORLD, code);
  std::_Exit(code);
}

/// What each rank tells the others at start-up.
struct Introduction {
  std::int32_t workers = 0;
  std::int32_t reduction = 0;
  std::int32_t node = 0;
  std::array<char, 256> host{};
};

std::vector<Introduction> introduce(MPI_Comm comm, MPI_Comm node, const WorldOptions& options, int rank, int ranks) {
  Introduction mine;
  mine.workers = options.workers;
  mine.reduction = static_cast<std::int32_t>(options.reduction);
  mine.node = rank;
  check_mpi(MPI_Bcast(&mine.node, 1, MPI_INT32_T, 0, node), "MPI_Bcast");
  host_name().copy(mine.host.data(), mine.host.size() - 1);
  std::vector<Introduction> all(static_cast<std::size_t>(ranks));
  check_mpi(MPI_Allgather(&mine, sizeof mine, MPI_BYTE, all.data(), sizeof mine, MPI_BYTE, comm), "MPI_Allgather");
  return all;
}

/// Number of cores that the ranks of a machine may use, each counted once. Collective over them.
int cores_of(MPI_Comm node) {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  if (sched_getaffinity(0, sizeof cores, &cores) != 0) {  // more than CPU_SETSIZE cores
    for (int core = 0; core < CPU_SETSIZE; ++core) CPU_SET(core, &cores);
  }
  check_mpi(MPI_Allreduce(MPI_IN_PLACE, &cores, sizeof cores, MPI_BYTE, MPI_BOR, node), "MPI_Allreduce");
  return CPU_COUNT(&cores);
}

/// Makes a communicator of the ranks on this rank's machine. SYNCBN_RANKS_PER_NODE=n lets each n ranks act as a
/// machine, so that one machine is enough to test what happens between several.
OwnedComm ranks_of_machine(MPI_Comm comm, int rank) {
  MPI_Comm machine = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &machine), "MPI_Comm_split_type");
  OwnedComm owner(machine);
  const char* text = std::getenv("SYNCBN_RANKS_PER_NODE");
  if (text == nullptr) return owner;
  const int n = std::atoi(text);
  if (n < 1)
    throw Error(fmt::format("SYNCBN_RANKS_PER_NODE is \"{}\", expected a number of ranks", text), ExitCode::usage);
  MPI_Comm part = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split(machine, rank / n, rank, &part), "MPI_Comm_split");
  return OwnedComm(part);
}

void require_multiple_threads() {
  if (!mpi_is_usable())
    throw Error("MPI is not initialized; create an MpiEnvironment, or call MPI_Init_thread first",
                ExitCode::unavailable);
  int provided = MPI_THREAD_SINGLE;
  check_mpi(MPI_Query_thread(&provided), "MPI_Query_thread");
  if (provided < MPI_THREAD_MULTIPLE)
    throw Error(
        "MPI was initialized without MPI_THREAD_MULTIPLE; ask MPI_Init_thread for it, or use an MPI that has it",
        ExitCode::unavailable);
}

}  // namespace

MpiConnection connect_mpi(const WorldOptions& options, int fortran_comm) {
  require_multiple_threads();
  OwnedComm comm = duplicate_of(MPI_Comm_f2c(fortran_comm));
  Topology topology;
  check_mpi(MPI_Comm_rank(comm.get(), &topology.rank), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(comm.get(), &topology.ranks), "MPI_Comm_size");
  const OwnedComm node = ranks_of_machine(comm.get(), topology.rank);
  topology.node_cores = cores_of(node.get());
  const std::vector<Introduction> all = introduce(comm.get(), node.get(), options, topology.rank, topology.ranks);
  for (int rank = 1; rank < topology.ranks; ++rank) {
    const Introduction& theirs = all[rank];
    if (theirs.workers != all[0].workers || theirs.reduction != all[0].reduction)
      throw Error(
          fmt::format("rank {} ({}) was started with {} workers ({} reduction), rank 0 ({}) with {} ({}); start "
                      "every rank alike",
                      rank, theirs.host.data(), theirs.workers, theirs.reduction ? "native" : "ordered",
                      all[0].host.data(), all[0].workers, all[0].reduction ? "native" : "ordered"),
          ExitCode::usage);
  }
  if (options.workers < topology.ranks)
    throw Error(fmt::format("{} workers cannot be spread over {} ranks; start at most {} ranks or set workers to at "
                            "least {}",
                            options.workers, topology.ranks, options.workers, topology.ranks),
                ExitCode::usage);
  topology.workers = options.workers;
  for (const Introduction& one : all) {
    topology.hosts.emplace_back(one.host.data());
    topology.nodes.push_back(one.node);
  }
  auto transport = std::make_unique<MpiTransport>(std::move(comm), topology, options.reduction);
  return {std::move(topology), std::move(transport)};
}

}  // namespace syncbn::detail
