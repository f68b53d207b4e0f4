#include "comm/remote_wait.hpp"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <limits>
#include <thread>

#include "comm/rank_context.hpp"
#include "core/console.hpp"

namespace syncbn::detail {

namespace {

constexpr double kLetOthersSpeak_s = 2;
// After 5 s, or a third of the time-out if that is less (but not below 1 s), rank 0 or 1 prints which ranks are being
// waited for. Two may print, since one may be the missing rank. Off during set-up, where waits of seconds are normal.
constexpr double kSayWaiting_s = 5, kLeastWorthALine_s = 1;
constexpr double kLookForFailuresEvery_s = 1e-3;
constexpr double kYieldFor_s = 1e-3;

}  // namespace

// Waits a little longer for remote ranks than for local workers: a rank with a missing worker then times out first and
// can name that worker.
RemoteWait::RemoteWait(RankContext& context, double patience)
    : context_(context),
      let_others_speak_s_(std::min(kLetOthersSpeak_s, patience * context.timeout_s() / 4)),
      deadline_(patience * context.timeout_s() + let_others_speak_s_),
      speak_at_s_(context.topology().rank <= 1 && patience == 1 && deadline_.limit_s() > 3 * kLeastWorthALine_s
                      ? std::min(kSayWaiting_s, deadline_.limit_s() / 3)
                      : std::numeric_limits<double>::infinity()) {}

void RemoteWait::check(const Link& link, const std::function<std::string()>& waiting) {
  check(
      waiting, [&link] { return link.missing(); }, link.hops());
}

void RemoteWait::check(const std::function<std::string()>& waiting, const std::function<std::string()>& missing,
                       int hops) {
  context_.throw_if_failed();
  const double now_s = deadline_.elapsed_s();
  if (now_s < looked_at_s_ + kLookForFailuresEvery_s) return;
  looked_at_s_ = now_s;
  context_.check_remote_failure();
  const double limit_s = deadline_.limit_s() + hops * let_others_speak_s_;
  if (now_s > speak_at_s_) {
    speak_at_s_ = std::numeric_limits<double>::infinity();
    if (context_.may_say_waiting())
      write_stderr(fmt::format("syncbn: {} has waited {:.2g} s for {}; at {:.3g} s this ends the job\n", waiting(),
                               now_s, missing(), limit_s));
  }
  if (now_s > limit_s)
    context_.fail_with(Error(
        fmt::format("{} has waited {:.3g} s for {}: dead, stuck or on another path", waiting(), limit_s, missing())));
}

bool advance(Link& link, RankContext& context) {
  try {
    return link.poll();
  } catch (const Error& error) {
    context.fail_with(error);
  }
}

void drive(Link& link, RankContext& context, const std::function<std::string()>& waiting, double patience) {
  RemoteWait wait(context, patience);
  while (!advance(link, context)) {
    wait.check(link, waiting);
    if (wait.elapsed_s() < kYieldFor_s)
      sched_yield();
    else
      std::this_thread::sleep_for(kRemoteNap);
  }
}

}  // namespace syncbn::detail
