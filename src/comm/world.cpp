#include "syncbn/comm/world.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <optional>
#include <system_error>
#include <thread>

#include "comm/links/mpi_transport.hpp"
#include "comm/rank_context.hpp"
#include "comm/remote_wait.hpp"
#include "core/console.hpp"
#include "core/host_name.hpp"
#include "core/text.hpp"

namespace syncbn {

namespace {

using detail::RankContext;

/// How long other workers may take to stop after one has failed, before the whole job is aborted.
constexpr double kStopGrace_s = 5;
/// Rank 0 reports first; the other ranks have usually ended before their turn.
constexpr auto kLetRankZeroSpeak = std::chrono::seconds(4);

void check(const WorldOptions& options) {
  if (options.workers < 1)
    throw Error(fmt::format("{} workers: set workers to at least 1", options.workers), ExitCode::usage);
  if (options.threads < 0)
    throw Error(fmt::format("{} threads: use 0 for one per core, or more", options.threads), ExitCode::usage);
  if (!(options.timeout_s > 0))
    throw Error(fmt::format("a time-out of {} s: it must be positive", options.timeout_s), ExitCode::usage);
}

/// Returns the first line in which two texts differ, with its number.
std::string first_differing_line(std::string_view mine, std::string_view theirs) {
  for (int number = 1;; ++number) {
    const std::string_view a = take_line(mine);
    const std::string_view b = take_line(theirs);
    if (a != b || (mine.empty() && theirs.empty()))
      return fmt::format("line {}: '{}' against '{}'", number, a.substr(0, 200), b.substr(0, 200));
  }
}

}  // namespace

World::World(std::shared_ptr<RankContext> context) : context_(std::move(context)) {}
World::World(World&&) noexcept = default;
World& World::operator=(World&&) noexcept = default;
World::~World() = default;

World World::threads(const WorldOptions& options) {
  check(options);
  detail::Topology topology;
  topology.workers = options.workers;
  topology.hosts = {host_name()};
  topology.nodes = {0};
  topology.node_cores = detail::cores_offered();
  return World(std::make_shared<RankContext>(options, std::move(topology), detail::single_process()));
}

World World::mpi(const WorldOptions& options, int fortran_comm) {
  check(options);
  detail::MpiConnection connection = detail::connect_mpi(options, fortran_comm);
  return World(std::make_shared<RankContext>(options, std::move(connection.topology), std::move(connection.transport)));
}

int World::workers() const {
  return context_->topology().workers;
}
int World::ranks() const {
  return context_->topology().ranks;
}
int World::rank() const {
  return context_->topology().rank;
}
int World::first_worker() const {
  return context_->topology().local().first;
}
int World::local_workers() const {
  return context_->topology().local().size();
}
int World::threads() const {
  return context_->crew().threads();
}
const std::vector<std::string>& World::hosts() const {
  return context_->topology().hosts;
}
const std::vector<int>& World::nodes() const {
  return context_->topology().nodes;
}

void World::run(const std::function<void(Worker&)>& body) {
  RankContext& context = *context_;
  if (context.failed()) throw Error("this world has failed before and cannot run again");
  if (context.running().exchange(true))
    throw Error("World::run was called while it runs; its function must not call it again", ExitCode::usage);
  const std::unique_ptr<std::atomic<bool>, void (*)(std::atomic<bool>*)> running(
      &context.running(), [](std::atomic<bool>* flag) { *flag = false; });
  for (int i = 0; i < local_workers(); ++i) context.log().enter(i);
  const auto work = [this, &context, &body](int local_index) {
    try {
      Worker worker(*this, local_index);
      body(worker);
      if (!context.failed()) context.log().require_all_finished(local_index);
    } catch (...) {
      context.fail(std::current_exception());
    }
    context.log().leave(local_index);
  };
  std::optional<detail::Deadline> grace;
  const auto watch = [this, &context, &grace] {
    context.check_for_hogs();
    if (context.failed() && !grace) grace.emplace(kStopGrace_s);
    if (!grace || !grace->passed()) return;
    // A worker is stuck in its own code, so its thread cannot be joined.
    const detail::RemoteFailure cause = detail::describe_failure(context.failure());
    abort(cause.message, cause.code);
  };
  try {
    context.crew().run(work, watch);
  } catch (const std::exception& error) {  // what the bodies throw is caught in `work`
    const char* const stacks =
        dynamic_cast<const std::system_error*>(&error)
            ? ""
            : "; every worker needs a stack, which takes memory and two of the vm.max_map_count mappings of a process: "
              "use fewer workers, or more ranks";
    context.fail(std::make_exception_ptr(Error(fmt::format("cannot start {} threads for {} workers: {}{}", threads(),
                                                           local_workers(), message_of(error), stacks),
                                               ExitCode::unavailable)));
  }
  if (context.failed()) std::rethrow_exception(context.failure());
}

namespace {

void require_outside_run(RankContext& context, const char* call, const char* within) {
  if (context.running())
    throw Error(fmt::format("World::{} was called within World::run, whose workers cannot all speak for their rank: "
                            "call it outside, or {}",
                            call, within),
                ExitCode::usage);
}

}  // namespace

void World::require_same(const std::string& what, const std::string& value) const {
  require_outside_run(*context_, "require_same", "compare the results of Worker::all().all_reduce() with min and max");
  const std::vector<std::string> values = context_->control().all_gather(value, what);
  for (std::size_t r = 1; r < values.size(); ++r)
    if (values[r] != values[0])
      throw Error(fmt::format("{} of rank {} ({}) differs from that of rank 0 ({}), {}; start every rank alike", what,
                              r, hosts()[r], hosts()[0], first_differing_line(values[r], values[0])),
                  ExitCode::usage);
}

double World::max_over_ranks(double value) const {
  require_outside_run(*context_, "max_over_ranks", "use Worker::all().all_reduce()");
  double most = -std::numeric_limits<double>::infinity();
  const std::string bytes(reinterpret_cast<const char*>(&value), sizeof value);
  for (const std::string& theirs : context_->control().all_gather(bytes, "number")) {
    double number = 0;
    std::memcpy(&number, theirs.data(), sizeof number);
    if (std::isnan(number) || number > most) most = number;  // never after NaN
  }
  return most;
}

std::string World::broadcast(const std::string& value) const {
  require_outside_run(*context_, "broadcast", "use Worker::all().broadcast()");
  return context_->control().all_gather(rank() == 0 ? value : std::string(), "text")[0];
}

void World::abort(const std::string& message, ExitCode code) const {
  std::fflush(stdout);
  if (rank() != 0) std::this_thread::sleep_for(kLetRankZeroSpeak);
  const std::string line = fmt::format("syncbn: rank {} ({}): {}\n", rank(), hosts()[rank()], message);
  std::fputs(line.c_str(), stderr);
  std::fflush(stderr);
  context_->transport().abort(static_cast<int>(code));
  std::_Exit(static_cast<int>(code));  // not reached; the compiler cannot see it through the virtual call
}

}  // namespace syncbn
