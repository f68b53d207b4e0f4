#pragma once

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

namespace syncbn::detail {

/// Says once on standard error that a call which waits for all ranks has not returned after a while: MPI_Init and
/// MPI_Finalize have no time limit. The call goes on. Of several ranks the first two speak, since one may be missing.
class SlowCall {
 public:
  /// "syncbn: rank 0 (node3): CALL has not returned for 60 s: WHY". Lives as long as the call. Where no thread is to be
  /// had, nothing is watched.
  SlowCall(const std::string& call, const std::string& why, double limit_s = 60);
  ~SlowCall();
  SlowCall(const SlowCall&) = delete;
  SlowCall& operator=(const SlowCall&) = delete;

 private:
  void watch(const std::string& line, double limit_s);

  std::mutex mutex_;
  std::condition_variable returns_;
  bool returned_ = false;
  std::thread thread_;
};

}  // namespace syncbn::detail
