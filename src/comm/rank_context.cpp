#include "comm/rank_context.hpp"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <cstring>
#include <thread>

#include "comm/channel.hpp"
#include "comm/order/tree.hpp"
#include "core/console.hpp"

namespace syncbn::detail {

namespace {

// Channel numbers are message tags. Tag 0 carries failures.
constexpr int kAllChannel = 1;
constexpr int kLocalChannel = 2;
constexpr int kControlChannel = 3;
constexpr int kFirstFreeChannel = 4;

constexpr double kLetOthersSpeak_s = 2;
// After 5 s, or a third of the time-out if that is less (but not below 1 s), rank 0 or 1 prints which ranks are being
// waited for. Two may print, since one may be the missing rank. Off during set-up, where waits of seconds are normal.
constexpr double kSayWaiting_s = 5, kLeastWorthALine_s = 1;
constexpr double kYieldFor_s = 1e-3;

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
      workers_(static_cast<std::size_t>(topology_.local().size())),
      next_channel_(kFirstFreeChannel) {
  all_ = std::make_shared<Channel>(*this, kAllChannel, topology_.all());
  local_ = std::make_shared<Channel>(*this, kLocalChannel, topology_.local());
  control_ = transport_->connect(kControlChannel, topology_.all());
}

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
      Error(fmt::format("{} has waited {:.3g} s for its thread, held all this time by {}",
                        describe_worker(hog.neighbour), patience * timeout_s_, describe_worker(hog.worker)))));
}

void RankContext::note(int local_index, const Header& header) {
  WorkerRecord& worker = workers_[local_index];
  std::lock_guard lock(worker.mutex);
  worker.last = header;
  worker.seen = true;
}

void RankContext::begin(int local_index, const Channel* channel, const Header& header) {
  if (running_) workers_[local_index].under_way.emplace_back(channel, header);
}

void RankContext::end(int local_index, const Channel* channel) {
  auto& under_way = workers_[local_index].under_way;
  const auto found = std::ranges::find(under_way, channel, &std::pair<const Channel*, Header>::first);
  if (found != under_way.end()) under_way.erase(found);
}

void RankContext::require_all_finished(int local_index) const {
  const auto& under_way = workers_[local_index].under_way;
  if (under_way.empty() || failed()) return;
  throw Error(fmt::format(
      "{} has left World::run's function with a collective under way at {}: call "
      "finish_all_reduce() before it returns",
      topology_.describe_worker(topology_.local().first + local_index), describe(under_way.front().second)));
}

std::string RankContext::describe_worker(int local_index) const {
  const WorkerRecord& worker = workers_[local_index];
  const std::string name = topology_.describe_worker(topology_.local().first + local_index);
  std::lock_guard lock(worker.mutex);
  return worker.seen ? fmt::format("{} last seen at {}", name, describe(worker.last)) : name + " not seen yet";
}

std::string RankContext::describe_rank_at(const Header& header) const {
  return fmt::format("{} at {}", topology_.describe_rank(topology_.rank), describe(header));
}

std::vector<std::int64_t> RankContext::sum_over_ranks(std::vector<std::int64_t> numbers, const std::string& what) {
  // Summed in pieces, since a checkpoint may be longer than what MPI can count.
  constexpr std::size_t kMost = std::size_t{1} << 20;
  if (numbers.size() <= kMost) return sum_piece_over_ranks(std::move(numbers), what);
  for (std::size_t begin = 0; begin < numbers.size(); begin += kMost) {
    const auto first = numbers.begin() + static_cast<std::ptrdiff_t>(begin);
    const auto last = first + static_cast<std::ptrdiff_t>(std::min(kMost, numbers.size() - begin));
    const std::vector<std::int64_t> sums = sum_piece_over_ranks({first, last}, what);
    std::copy(sums.begin(), sums.end(), first);
  }
  return numbers;
}

std::vector<std::int64_t> RankContext::sum_piece_over_ranks(std::vector<std::int64_t> numbers,
                                                            const std::string& what) {
  // A rank brings one value for each of its tree nodes: its numbers for the first, zeros for the others.
  const std::size_t nodes = fold_leaves(topology_.all(), topology_.local()).rest.size();
  std::vector<std::vector<std::int64_t>> values(nodes, std::vector<std::int64_t>(numbers.size()));
  values[0] = std::move(numbers);
  std::vector<std::byte*> blocks;
  for (auto& value : values) blocks.push_back(reinterpret_cast<std::byte*>(value.data()));
  Header header = Header::make(Operation::all_reduce, {what});
  header.type = Element::i64;
  header.count = static_cast<std::int64_t>(values[0].size());
  header.sequence = control_calls_++;
  const auto result = std::make_shared<Buffer>(header.bytes());
  control_->start(header, blocks, {result, result->data()});
  drive(
      *control_, *this, [&] { return describe_rank_at(header); }, kSetUpPatience);
  return {result->as<std::int64_t>(), result->as<std::int64_t>() + header.count};
}

std::vector<std::string> RankContext::all_gather(const std::string& value, const std::string& what) {
  if (!control_) return {value};
  throw_if_failed();
  const auto words_in = [](std::size_t bytes) { return (bytes + 7) / 8; };
  const auto ranks = static_cast<std::size_t>(topology_.ranks);
  const auto me = static_cast<std::size_t>(topology_.rank);
  std::vector<std::int64_t> sizes(ranks);
  sizes[me] = static_cast<std::int64_t>(value.size());
  sizes = sum_over_ranks(std::move(sizes), what);
  std::vector<std::size_t> begin(ranks + 1);
  for (std::size_t r = 0; r < ranks; ++r) begin[r + 1] = begin[r] + words_in(static_cast<std::size_t>(sizes[r]));
  std::vector<std::int64_t> words(begin[ranks]);
  if (!value.empty()) std::memcpy(words.data() + begin[me], value.data(), value.size());
  words = sum_over_ranks(std::move(words), what);
  std::vector<std::string> values;
  for (std::size_t r = 0; r < ranks; ++r)
    values.emplace_back(reinterpret_cast<const char*>(words.data() + begin[r]), static_cast<std::size_t>(sizes[r]));
  return values;
}

std::shared_ptr<Channel> RankContext::open(int local_index, const std::vector<IndexRange>& ranges) {
  const IndexRange local = topology_.local();
  std::lock_guard lock(opening_mutex_);
  const int number = workers_[local_index].openings_made++;
  Opening& opening = openings_[number];
  if (opening.to_fetch == 0) {  // the first local worker to get here opens the channels of all, in ascending order
    opening.to_fetch = local.size();
    for (const IndexRange& range : ranges) {
      const int id = next_channel_++;
      if (range.size() > 1 && intersect(range, local).size() > 0)
        opening.channels.push_back(std::make_shared<Channel>(*this, id, range));
    }
  }
  std::shared_ptr<Channel> mine;
  for (const auto& channel : opening.channels)
    if (channel->members().contains(local.first + local_index)) mine = channel;
  if (--opening.to_fetch == 0) openings_.erase(number);
  return mine;
}

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
