#include "comm/mpi_transport.hpp"

#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>

#include "comm/mpi_link.hpp"
#include "comm/shared_link.hpp"
#include "comm/shared_memory.hpp"

namespace syncbn::detail {

namespace {

constexpr int kFailureTag = 0;  // links use their channel numbers, from 1

/// An announced failure as it travels.
struct FailureMessage {
  std::int32_t code = 0;
  std::array<char, 1020> text{};
};

class MpiTransport final : public Transport {
 public:
  MpiTransport(OwnedComm comm, Layout layout, Reduction reduction)
      : comm_(std::move(comm)), layout_(std::move(layout)), reduction_(reduction) {}
  ~MpiTransport() override;

  std::unique_ptr<Link> connect(int channel, const WorkerRange& members) override;
  std::unique_ptr<Transport> duplicate() override;
  void announce(const RemoteFailure& failure) noexcept override;
  std::optional<RemoteFailure> announced() override;
  void abandon() noexcept override { broken_ = true; }
  void abort(int code) override;

 private:
  OwnedComm ranks_of(int channel, const WorkerRange& members);
  bool share_memory(const WorkerRange& members) const;

  OwnedComm comm_;
  const Layout layout_;
  const Reduction reduction_;
  std::map<int, OwnedComm> native_;  // by channel: freed in the same order everywhere
  std::atomic<bool> broken_{false};
};

OwnedComm duplicate_of(MPI_Comm comm) {
  MPI_Comm copy = MPI_COMM_NULL;
  check_mpi(MPI_Comm_dup(comm, &copy), "MPI_Comm_dup");
  return OwnedComm(copy);
}

MpiTransport::~MpiTransport() {
  if (!broken_) return;
  comm_.abandon();
  for (auto& entry : native_) entry.second.abandon();
}

/// A communicator of just the ranks that host the members.
OwnedComm MpiTransport::ranks_of(int channel, const WorkerRange& members) {
  std::vector<int> ranks;
  for (int rank = 0; rank < layout_.ranks; ++rank)
    if (intersect(layout_.of_rank(rank), members).size() > 0) ranks.push_back(rank);
  MPI_Group everybody = MPI_GROUP_NULL, some = MPI_GROUP_NULL;
  MPI_Comm created = MPI_COMM_NULL;
  check_mpi(MPI_Comm_group(comm_.get(), &everybody), "MPI_Comm_group");
  check_mpi(MPI_Group_incl(everybody, static_cast<int>(ranks.size()), ranks.data(), &some), "MPI_Group_incl");
  check_mpi(MPI_Comm_create_group(comm_.get(), some, channel, &created), "MPI_Comm_create_group");
  MPI_Group_free(&some);
  MPI_Group_free(&everybody);
  return OwnedComm(created);
}

bool MpiTransport::share_memory(const WorkerRange& members) const {
  for (int rank = 0; rank < layout_.ranks; ++rank) {
    const auto r = static_cast<std::size_t>(rank);
    const bool elsewhere = layout_.nodes[r] != layout_.nodes[static_cast<std::size_t>(layout_.rank)];
    if (elsewhere && intersect(layout_.of_rank(rank), members).size() > 0) return false;
  }
  return true;
}

std::unique_ptr<Link> MpiTransport::connect(int channel, const WorkerRange& members) {
  const WorkerRange here = intersect(layout_.local(), members);
  if (here.size() == members.size()) return nullptr;
  const bool native = reduction_ == Reduction::native;
  if (!native && share_memory(members)) {
    const OwnedComm ranks = ranks_of(channel, members);
    int count = 0;
    check_mpi(MPI_Comm_size(ranks.get(), &count), "MPI_Comm_size");
    if (SharedMemory memory(ranks.get(), static_cast<std::size_t>(count) * SharedLink::segment_bytes()); memory) {
      auto link = std::make_unique<SharedLink>(std::move(memory), layout_, members);
      check_mpi(MPI_Barrier(ranks.get()), "MPI_Barrier");
      return link;
    }
  }
  if (native) native_[channel] = ranks_of(channel, members);
  return std::make_unique<MpiLink>(comm_.get(), native ? native_[channel].get() : MPI_COMM_NULL, channel, layout_,
                                   members);
}

std::unique_ptr<Transport> MpiTransport::duplicate() {
  return std::make_unique<MpiTransport>(duplicate_of(comm_.get()), layout_, reduction_);
}

void MpiTransport::announce(const RemoteFailure& failure) noexcept {
  if (broken_.exchange(true) || !mpi_is_usable()) return;
  FailureMessage message;
  message.code = static_cast<std::int32_t>(failure.code);
  std::copy_n(failure.message.begin(), std::min(failure.message.size(), message.text.size() - 1), message.text.begin());
  // Left behind on purpose: nobody waits for these sends, and they may end after this object.
  const auto* kept = new FailureMessage(message);
  for (int rank = 0; rank < layout_.ranks; ++rank) {
    if (rank == layout_.rank) continue;
    MPI_Request request = MPI_REQUEST_NULL;
    if (MPI_Isend(kept, sizeof *kept, MPI_BYTE, rank, kFailureTag, comm_.get(), &request) == MPI_SUCCESS)
      MPI_Request_free(&request);
  }
}

std::optional<RemoteFailure> MpiTransport::announced() {
  if (layout_.ranks == 1) return std::nullopt;
  int found = 0;
  MPI_Message handle = MPI_MESSAGE_NULL;
  MPI_Status status;
  check_mpi(MPI_Improbe(MPI_ANY_SOURCE, kFailureTag, comm_.get(), &found, &handle, &status), "MPI_Improbe");
  if (!found) return std::nullopt;
  broken_ = true;
  FailureMessage message;
  check_mpi(MPI_Mrecv(&message, sizeof message, MPI_BYTE, &handle, MPI_STATUS_IGNORE), "MPI_Mrecv");
  message.text.back() = '\0';
  return RemoteFailure{fmt::format("{} failed: {}", layout_.describe_rank(status.MPI_SOURCE), message.text.data()),
                       static_cast<ExitCode>(message.code)};
}

void MpiTransport::abort(int code) {
  if (mpi_is_usable()) MPI_Abort(MPI_COMM_WORLD, code);
  std::_Exit(code);
}

/// What each rank tells the others at the start.
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
  gethostname(mine.host.data(), mine.host.size() - 1);
  std::vector<Introduction> all(static_cast<std::size_t>(ranks));
  check_mpi(MPI_Allgather(&mine, sizeof mine, MPI_BYTE, all.data(), sizeof mine, MPI_BYTE, comm), "MPI_Allgather");
  return all;
}

/// The cores that the ranks of a machine may use, each counted once. Collective over them.
int cores_of(MPI_Comm node) {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  sched_getaffinity(0, sizeof cores, &cores);
  check_mpi(MPI_Allreduce(MPI_IN_PLACE, &cores, sizeof cores, MPI_BYTE, MPI_BOR, node), "MPI_Allreduce");
  return CPU_COUNT(&cores);
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
  Layout layout;
  check_mpi(MPI_Comm_rank(comm.get(), &layout.rank), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(comm.get(), &layout.ranks), "MPI_Comm_size");
  MPI_Comm node = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(comm.get(), MPI_COMM_TYPE_SHARED, layout.rank, MPI_INFO_NULL, &node),
            "MPI_Comm_split_type");
  const OwnedComm node_owner(node);
  layout.node_cores = cores_of(node);
  const std::vector<Introduction> all = introduce(comm.get(), node, options, layout.rank, layout.ranks);
  for (int rank = 1; rank < layout.ranks; ++rank) {
    const Introduction& theirs = all[static_cast<std::size_t>(rank)];
    if (theirs.workers != all[0].workers || theirs.reduction != all[0].reduction)
      throw Error(
          fmt::format("rank {} ({}) was started with {} workers ({} reduction), rank 0 ({}) with {} ({}); start "
                      "every rank alike",
                      rank, theirs.host.data(), theirs.workers, theirs.reduction ? "native" : "ordered",
                      all[0].host.data(), all[0].workers, all[0].reduction ? "native" : "ordered"),
          ExitCode::usage);
  }
  if (options.workers < layout.ranks)
    throw Error(fmt::format("{} workers cannot be spread over {} ranks; start at most {} ranks or set workers to at "
                            "least {}",
                            options.workers, layout.ranks, options.workers, layout.ranks),
                ExitCode::usage);
  layout.workers = options.workers;
  for (const Introduction& one : all) {
    layout.hosts.emplace_back(one.host.data());
    layout.nodes.push_back(one.node);
  }
  auto transport = std::make_unique<MpiTransport>(std::move(comm), layout, options.reduction);
  return {std::move(layout), std::move(transport)};
}

}  // namespace syncbn::detail
