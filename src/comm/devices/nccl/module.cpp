// Exchange between the devices of several ranks by NCCL. The communicator is non-blocking: no call on the CPU waits for
// other ranks, so polling detects a lost rank, and ncclCommAbort frees the device.

#include "comm/devices/nccl/module.hpp"

#include <fmt/format.h>
#include <nccl.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "comm/threads/waiting_clock.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn {

namespace {

[[noreturn]] void report(const char* library, const std::string& what, const std::string& text) {
  int device = -1;
  cudaGetDevice(&device);
  throw DeviceError(fmt::format("{}: {}: {} (device {})", library, what, text, device));
}

void check(ncclResult_t code, const std::string& what, ncclComm_t comm = nullptr) {
  if (code == ncclSuccess || code == ncclInProgress) return;
  const char* detail = comm ? ncclGetLastError(comm) : nullptr;
  report("NCCL", what, ncclGetErrorString(code) + (detail && *detail ? std::string(": ") + detail : ""));
}

void check(cudaError_t code, const std::string& what) {
  if (code != cudaSuccess) report("CUDA", what, cudaGetErrorString(code));
}

class NcclPeers final : public DevicePeers {
 public:
  NcclPeers(const std::string& id, int rank, int ranks, int device, cudaStream_t stream, double timeout_s)
      : device_(device), stream_(stream) {
    ncclUniqueId unique{};
    if (id.size() != sizeof unique.internal) throw Error("NCCL: the id of a communicator is broken");
    std::memcpy(unique.internal, id.data(), id.size());
    check(cudaSetDevice(device_), "choosing the device");
    ::setenv("NCCL_RUNTIME_CONNECT", "0", /*overwrite=*/0);  // connect all now, see connect_devices()
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    what_ = fmt::format("connecting {} ranks", ranks);
    try {
      check(ncclCommInitRankConfig(&comm_, ranks, unique, rank, &config), what_);
      const double begin_s = detail::waiting_clock_s();
      while (!queued()) {
        if (detail::waiting_clock_s() - begin_s > timeout_s)
          throw Error(fmt::format("NCCL: {} took more than {:.3g} s; NCCL_DEBUG=INFO shows why", what_, timeout_s));
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    } catch (...) {
      abandon();
      throw;
    }
  }
  ~NcclPeers() override { abandon(); }

  void exchange(std::span<const Transfer> sends, std::span<const Transfer> receives) override {
    check(cudaSetDevice(device_), "choosing the device");
    what_ = "exchanging values";
    check(ncclGroupStart(), what_, comm_);
    ncclResult_t code = ncclSuccess;
    const auto note = [&code](ncclResult_t next) {
      if (code == ncclSuccess || code == ncclInProgress) code = next;
    };
    for (const Transfer& t : sends) note(ncclSend(t.data, t.bytes, ncclChar, t.peer, comm_, stream_));
    for (const Transfer& t : receives) note(ncclRecv(t.data, t.bytes, ncclChar, t.peer, comm_, stream_));
    note(ncclGroupEnd());  // also after an error, which would otherwise leave the group open
    check(code, what_, comm_);
  }

  void all_reduce(float* values, std::int64_t count) override {
    check(cudaSetDevice(device_), "choosing the device");
    what_ = "all-reduce";
    check(ncclAllReduce(values, values, static_cast<std::size_t>(count), ncclFloat, ncclSum, comm_, stream_), what_,
          comm_);
  }

  bool queued() override {
    ncclResult_t state = ncclSuccess;
    check(ncclCommGetAsyncError(comm_, &state), what_, comm_);
    check(state, what_, comm_);
    return state == ncclSuccess;
  }

  void abandon() noexcept override {
    if (comm_) ncclCommAbort(comm_);
    comm_ = nullptr;
  }

 private:
  int device_;
  cudaStream_t stream_;
  ncclComm_t comm_ = nullptr;
  std::string what_;
};

}  // namespace

}  // namespace syncbn

const char* syncbn_nccl_version() {
  return SYNCBN_VERSION;
}

void syncbn_nccl_make_id(std::string* id) {
  ncclUniqueId unique{};
  syncbn::check(ncclGetUniqueId(&unique), "making the id of a communicator");
  id->assign(unique.internal, sizeof unique.internal);
}

syncbn::DevicePeers* syncbn_nccl_connect(const std::string& id, int rank, int ranks, int device, void* stream,
                                         double timeout_s) {
  return new syncbn::NcclPeers(id, rank, ranks, device, static_cast<cudaStream_t>(stream), timeout_s);
}
