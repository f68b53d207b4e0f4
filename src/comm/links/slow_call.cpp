#include "comm/links/slow_call.hpp"

#include <fmt/format.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <system_error>

#include "comm/threads/waiting_clock.hpp"
#include "core/console.hpp"
#include "core/host_name.hpp"

namespace syncbn::detail {

namespace {

/// This process's rank as set by the launcher, since MPI may not know it yet; 0 if the launcher does not set it.
int rank_of_launcher() {
  for (const char* variable : {"PMIX_RANK", "PMI_RANK", "SLURM_PROCID"}) {
    if (const char* text = std::getenv(variable)) return std::atoi(text);
  }
  return 0;
}

}  // namespace

SlowCall::SlowCall(const std::string& call, const std::string& why, double limit_s) {
  const int rank = rank_of_launcher();
  if (rank > 1) return;
  const std::string line = fmt::format("syncbn: rank {} ({}): {} has not returned for {:.3g} s: {}\n", rank,
                                       host_name(), call, limit_s, why);
  sigset_t all, before;  // leave signals to the other threads
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    thread_ = std::thread([this, line, limit_s] { watch(line, limit_s); });
  } catch (const std::system_error&) {
    thread_ = {};
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

SlowCall::~SlowCall() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard lock(mutex_);
    returned_ = true;
  }
  returns_.notify_one();
  thread_.join();
}

void SlowCall::watch(const std::string& line, double limit_s) {
  const double start_s = waiting_clock_s();
  std::unique_lock lock(mutex_);
  while (!returns_.wait_for(lock, std::chrono::milliseconds(200), [this] { return returned_; })) {
    if (waiting_clock_s() - start_s < limit_s) continue;
    write_stderr(line);
    return;
  }
}

}  // namespace syncbn::detail
