#include "comm/rank_context.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "comm/threads/waiting_clock.hpp"

namespace syncbn::detail {

namespace {

int threads_for(const WorldOptions& options, const Topology& topology) {
  const int share = std::max(1, std::min(cores_offered(), topology.node_cores / topology.ranks_on_this_node()));
  return std::min(options.threads > 0 ? options.threads : share, topology.local().size());
}

// Whether every compute thread of this machine has a core of its own, so that a short spin takes no time from others.
bool may_spin(int threads, const Topology& topology) {
  return threads <= cores_offered() && threads * topology.ranks_on_this_node() <= topology.node_cores;
}

}  // namespace

RankContext::RankContext(const WorldOptions& options, Topology topology, std::unique_ptr<Transport> transport)
    : topology_(std::move(topology)),
      timeout_s_(options.timeout_s),
      reduction_(options.reduction),
      transport_(std::move(transport)),
      crew_(threads_for(options, topology_), topology_.local().size(),
            may_spin(threads_for(options, topology_), topology_)),
      log_(topology_),
      channels_(*this),
      control_(*this, Channels::kControl) {}

RemoteFailure describe_failure(const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const Error& error) {
    return {error.what(), error.code()};
  } catch (const std::exception& error) {
    return {error.what(), ExitCode::failure};
  } catch (...) {
    return {"unknown exception", ExitCode::failure};
  }
}

bool RankContext::record(const std::exception_ptr& failure) noexcept {
  bool first = false;
  {
    std::lock_guard lock(failure_mutex_);
    first = !failure_;
    if (first) failure_ = failure;
    failed_.store(true, std::memory_order_release);
  }
  crew_.notify();
  return first;
}

bool RankContext::fail(const std::exception_ptr& failure) noexcept {
  const bool first = record(failure);
  if (first) transport_->announce(describe_failure(failure));
  return first;
}

void RankContext::fail_with(const Error& error) {
  if (!fail(std::make_exception_ptr(error))) throw Aborted();
  throw error;
}

void RankContext::throw_if_failed() const {
  if (failed()) throw Aborted();
}

std::exception_ptr RankContext::failure() const {
  std::lock_guard lock(failure_mutex_);
  return failure_;
}

void RankContext::check_remote_failure() {
  const auto failure = transport_->announced();
  if (!failure) return;
  const Error error(failure->message, failure->code);
  if (!record(std::make_exception_ptr(error))) throw Aborted();
  throw error;
}

bool RankContext::may_say_waiting() noexcept {
  const double now_s = waiting_clock_s();
  double before_s = said_waiting_s_.load(std::memory_order_relaxed);
  return now_s > before_s + timeout_s_ && said_waiting_s_.compare_exchange_strong(before_s, now_s);
}

// Waits longer where there are other ranks: those that wait for this one time out first and can name the layer.
void RankContext::check_for_hogs() noexcept {
  const double patience = topology_.ranks > 1 ? 1.75 : 1;
  const Crew::Hog hog = crew_.hog(patience * timeout_s_);
  if (hog.worker < 0 || failed()) return;
  fail(std::make_exception_ptr(
      Error(fmt::format("{} has waited {:.3g} s for its thread, held all this time by {}", log_.describe(hog.neighbour),
                        patience * timeout_s_, log_.describe(hog.worker)))));
}

std::string RankContext::describe_rank_at(const Header& header) const {
  return fmt::format("{} at {}", topology_.describe_rank(topology_.rank), describe(header));
}

}  // namespace syncbn::detail
