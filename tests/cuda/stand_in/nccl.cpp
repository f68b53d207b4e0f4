// The library that nccl.h stands in for: a socket between every two ranks. Calls return before their work is queued;
// who does not ask for the communicator's state queues what follows too early.

#include "nccl.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <memory>
#include <vector>

namespace {

struct Transfer {
  int peer;
  char* values;
  std::size_t left;
  bool sends;
};

struct Connections {
  int rank = 0, ranks = 0, listener = -1;
  std::string name;
  std::vector<int> sockets;  // by rank
  std::atomic<bool> aborted{false}, failed{false};

  ~Connections() {
    for (const int s : sockets)
      if (s >= 0) ::close(s);
    if (listener >= 0) ::close(listener);
  }

  sockaddr_un address(int r) const {
    sockaddr_un a{};
    a.sun_family = AF_UNIX;  // in no folder: the first byte of the path is 0
    std::snprintf(a.sun_path + 1, sizeof a.sun_path - 1, "%s.%d", name.c_str(), r);
    return a;
  }

  bool connected() {
    for (int r = 0; r < rank; ++r) {
      if (sockets[static_cast<std::size_t>(r)] >= 0) continue;
      const int s = ::socket(AF_UNIX, SOCK_STREAM, 0);
      const sockaddr_un a = address(r);
      if (::connect(s, reinterpret_cast<const sockaddr*>(&a), sizeof a) != 0) {
        ::close(s);
        return false;
      }
      static_cast<void>(::send(s, &rank, sizeof rank, MSG_NOSIGNAL));
      sockets[static_cast<std::size_t>(r)] = s;
    }
    for (const int s = ::accept(listener, nullptr, nullptr); s >= 0;) {
      int r = 0;
      static_cast<void>(::recv(s, &r, sizeof r, MSG_WAITALL));
      sockets[static_cast<std::size_t>(r)] = s;
      break;
    }
    for (int r = 0; r < ranks; ++r)
      if (r != rank && sockets[static_cast<std::size_t>(r)] < 0) return false;
    return true;
  }

  /// What this rank sends to itself.
  void run_own(std::vector<Transfer>& transfers) const {
    const auto next = [&](bool sends) {
      return std::find_if(transfers.begin(), transfers.end(),
                          [&](const Transfer& t) { return t.peer == rank && t.sends == sends && t.left > 0; });
    };
    for (auto to = next(false); to != transfers.end(); to = next(false)) {
      const auto from = next(true);
      std::memcpy(to->values, from->values, to->left);
      to->left = from->left = 0;
    }
  }

  /// All at once, by peer in the order of the calls; true when nothing is left to do.
  bool run(std::vector<Transfer>& transfers) {
    run_own(transfers);
    std::vector<bool> busy(static_cast<std::size_t>(2 * ranks));
    for (Transfer& t : transfers) {
      const auto way = static_cast<std::size_t>(2 * t.peer + t.sends);
      if (t.left == 0 || busy[way]) continue;
      busy[way] = true;
      const int s = sockets[static_cast<std::size_t>(t.peer)];
      const ssize_t moved = t.sends ? ::send(s, t.values, t.left, MSG_DONTWAIT | MSG_NOSIGNAL)
                                    : ::recv(s, t.values, t.left, MSG_DONTWAIT);
      if (moved > 0) t.values += moved, t.left -= static_cast<std::size_t>(moved);
      if (moved == 0 || (moved < 0 && errno != EAGAIN)) failed = true;
    }
    const auto is_done = [](const Transfer& t) { return t.left == 0; };
    return aborted || failed || std::all_of(transfers.begin(), transfers.end(), is_done);
  }
};

}  // namespace

struct StandInNccl {
  std::shared_ptr<Connections> connections = std::make_shared<Connections>();
  bool ready = false;
  int asked = 0;
  std::function<void()> under_way;  // queues what has been called
};

namespace {

thread_local bool grouping = false;
thread_local ncclComm_t group_comm = nullptr;
thread_local cudaStream_t group_stream = nullptr;
thread_local std::vector<Transfer> group;

ncclResult_t note(const void* values, std::size_t count, ncclDataType_t type, int peer, bool sends, ncclComm_t comm,
                  cudaStream_t stream) {
  if (!grouping || count == 0 || comm->under_way) return ncclInvalidArgument;
  group_comm = comm;
  group_stream = stream;
  group.push_back(
      {peer, static_cast<char*>(const_cast<void*>(values)), type == ncclChar ? count : count * sizeof(float), sends});
  return ncclSuccess;
}

}  // namespace

const char* ncclGetErrorString(ncclResult_t code) {
  return code == ncclSystemError ? "unhandled system error" : "not what the stand-in can do";
}
const char* ncclGetLastError(ncclComm_t) {
  return "";
}
ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  *id = {};
  static std::atomic<int> ids{0};
  std::snprintf(id->internal, sizeof id->internal, "syncbn-stand-in-%d-%d", ::getpid(), ids++);
  return ncclSuccess;
}
ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t* config) {
  if (config->blocking != 0) return ncclInvalidArgument;
  *comm = new StandInNccl;
  Connections& c = *(*comm)->connections;
  c.rank = rank, c.ranks = ranks, c.name = id.internal;
  c.sockets.assign(static_cast<std::size_t>(ranks), -1);
  c.listener = ::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
  const sockaddr_un a = c.address(rank);
  if (::bind(c.listener, reinterpret_cast<const sockaddr*>(&a), sizeof a) != 0 || ::listen(c.listener, ranks) != 0)
    return ncclSystemError;
  return ncclInProgress;
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state) {
  comm->ready = comm->ready || comm->connections->connected();
  *state = comm->ready ? ncclSuccess : ncclInProgress;
  if (comm->connections->failed) *state = ncclSystemError;
  if (comm->ready && comm->under_way) {
    if (++comm->asked % 3 != 0) {
      *state = ncclInProgress;
    } else {
      comm->under_way();
      comm->under_way = nullptr;
    }
  }
  return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  comm->connections->aborted = true;
  delete comm;
  return ncclSuccess;
}
ncclResult_t ncclGroupStart() {
  grouping = true;
  group.clear();
  group_comm = nullptr;
  return ncclSuccess;
}
ncclResult_t ncclGroupEnd() {
  grouping = false;
  if (stand_in::outcome("ncclGroupEnd") != cudaSuccess) return ncclSystemError;
  if (!group_comm) return ncclSuccess;
  group_comm->under_way = [transfers = std::move(group), c = group_comm->connections, stream = group_stream] {
    const bool stalls = stand_in::outcome("stall") != cudaSuccess;  // until it is aborted
    stand_in::queue_until(stream,
                          [transfers, c, stalls]() mutable { return stalls ? c->aborted.load() : c->run(transfers); });
  };
  return ncclInProgress;
}
ncclResult_t ncclSend(const void* values, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return note(values, count, type, peer, true, comm, stream);
}
ncclResult_t ncclRecv(void* values, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return note(values, count, type, peer, false, comm, stream);
}
ncclResult_t ncclAllReduce(const void* from, void* to, std::size_t count, ncclDataType_t, ncclRedOp_t, ncclComm_t comm,
                           cudaStream_t stream) {
  if (comm->under_way) return ncclInvalidArgument;
  comm->under_way = [=, c = comm->connections] {
    const auto all = std::make_shared<std::vector<std::vector<float>>>(c->ranks, std::vector<float>(count));
    const auto values_of = [all](int r) { return reinterpret_cast<char*>((*all)[static_cast<std::size_t>(r)].data()); };
    std::vector<Transfer> transfers;
    for (int r = 0; r < c->ranks; ++r) {
      if (r == c->rank) continue;
      transfers.push_back({r, values_of(c->rank), count * sizeof(float), true});
      transfers.push_back({r, values_of(r), count * sizeof(float), false});
    }
    stand_in::queue(stream, [=] { std::memcpy(values_of(c->rank), from, count * sizeof(float)); });
    stand_in::queue_until(stream, [=]() mutable { return c->run(transfers); });
    stand_in::queue(stream, [=] {
      for (std::size_t i = 0; i < count; ++i) {
        float sum = 0;
        for (const auto& values : *all) sum += values[i];
        static_cast<float*>(to)[i] = sum;
      }
    });
  };
  return ncclInProgress;
}
