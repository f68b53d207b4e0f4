#pragma once

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

namespace syncbn::detail {

/// Prints once to standard error that a call that waits for all ranks has not returned after a while: MPI_Init and
/// MPI_Finalize have no time limit. The call continues. Only the first two ranks print; two, since one may be missing.
class SlowCall {
 public:
  /// Prints "syncbn: rank 0 (node3): CALL has not returned for 60 s: WHY". Lives as long as the call. If no thread can
  /// be created, nothing is watched.
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
