#include "comm/channel.hpp"

#include <fmt/format.h>

#include <chrono>
#include <cstring>
#include <functional>
#include <optional>

namespace syncbn::detail {

namespace {

/// Polls before the clock is read: messages within a machine take less time than reading the clock and a few switches.
constexpr int kQuickLooks = 256;

double seconds(std::chrono::microseconds time) {
  return std::chrono::duration<double>(time).count();
}

void ensure(Buffer& buffer, std::size_t bytes) {
  if (buffer.size() < bytes) buffer = Buffer(bytes);
}

}  // namespace

Channel::Channel(RankContext& context, int id, const IndexRange& members)
    : context_(context),
      members_(members),
      local_(intersect(members, context.topology().local())),
      plan_(fold_leaves(members, local_)),
      link_(context.transport().connect(id, members)),
      direct_(link_ && link_->in_memory() && local_.size() == 1),
      seats_(static_cast<std::size_t>(local_.size())) {
  for (Round& round : rounds_) {
    round.here.resize(seats_.size());
    round.headers.resize(seats_.size());
    round.values.resize(seats_.size());
  }
}

void Channel::start(int worker, Header header, std::span<std::byte> values, std::function<void()> complete) {
  context_.throw_if_failed();
  const Topology& topology = context_.topology();
  if (!context_.running() && topology.workers > topology.ranks)  // only within run() others of a thread go on
    throw Error(fmt::format("{} outside World::run, where workers that share a rank cannot meet: call it within",
                            describe(header)),
                ExitCode::usage);
  const int seat = seat_of(worker);
  Seat& me = seats_[seat];
  if (me.pending)
    context_.fail_with(Error(fmt::format("{} starts {} before it has finished the one under way on this communicator",
                                         describe_local(seat), describe(header))));
  me.pending = true;
  me.values = values;
  me.complete = std::move(complete);
  header.sequence = me.next++;
  header.worker = worker;
  context_.log().begin(local_index(seat), this, header);
  Round& round = round_of(header.sequence);
  if (!direct_) {
    Buffer& mine = round.values[seat];
    ensure(mine, header.bytes());
    if (!values.empty()) std::memcpy(mine.data(), values.data(), values.size());
  }
  bool last = false;
  {
    std::lock_guard lock(mutex_);
    if (round.sequence != header.sequence) {
      round.sequence = header.sequence;
      round.arrived = 0;
      round.here.assign(seats_.size(), false);
      round.phase.store(Phase::collecting, std::memory_order_relaxed);
    }
    round.headers[seat] = header;
    round.here[seat] = true;
    last = ++round.arrived == local_.size();
  }
  if (!last) return;
  try {
    complete_here(round, seat);
  } catch (const Error& error) {
    context_.fail_with(error);
  }
}

void Channel::complete_here(Round& round, int seat) {
  const Header& header = round.headers[0];
  for (int other = 1; other < local_.size(); ++other)
    require_equal(round.headers[other], other, header, 0, [this](int one) { return describe_local(one); });
  const auto values_of = [&](int member) {
    const auto i = static_cast<std::size_t>(member);
    return direct_ ? seats_[i].values.data() : round.values[i].data();
  };
  round.blocks.clear();
  if (header.operation == Operation::all_reduce) {
    for (const Fold& fold : plan_.folds)
      combine(values_of(fold.into), values_of(fold.into), values_of(fold.from), header.count, header.type,
              header.reduce);
    for (const int item : plan_.rest) round.blocks.push_back(values_of(item));
  } else if (header.operation == Operation::broadcast && local_.contains(header.root)) {
    round.blocks.push_back(values_of(seat_of(header.root)));
  }
  if (!link_) {
    round.result = round.blocks.empty() ? nullptr : round.blocks[0];
    return complete(round, seat);
  }
  if (direct_) {
    link_->start(header, round.blocks, {nullptr, seats_[0].values.data()});
  } else {
    if (round.from_ranks->size() < header.bytes()) round.from_ranks = std::make_shared<Buffer>(header.bytes());
    round.result = round.from_ranks->data();
    link_->start(header, round.blocks, {round.from_ranks, round.from_ranks->data()});
  }
  set_phase(round, Phase::exchanging);
}

void Channel::set_phase(Round& round, Phase phase) {
  {
    std::lock_guard lock(mutex_);
    round.phase.store(phase, std::memory_order_release);
  }
  context_.crew().notify();
}

void Channel::finish(int worker) {
  const int seat = seat_of(worker);
  Seat& me = seats_[seat];
  if (!me.pending) context_.fail_with(Error(describe_local(seat) + " finishes a collective that it has not started"));
  Round& round = round_of(me.next - 1);
  if (!is_done(round, seat)) {
    const Deadline waiting(context_.timeout_s());
    wait(round, seat);
    me.waited_s += waiting.elapsed_s();
  }
  me.pending = false;
  context_.log().end(local_index(seat), this);
  if (!direct_ && !me.values.empty()) std::memcpy(me.values.data(), round.result, me.values.size());
}

bool Channel::is_done(Round& round, int seat) {
  const Phase phase = round.phase.load(std::memory_order_acquire);
  return phase == Phase::done || (phase == Phase::exchanging && try_exchange(round, seat));
}

void Channel::wait(Round& round, int seat) {
  for (int i = 0; i < kQuickLooks && context_.crew().may_look_again(local_index(seat)); ++i) {
    if (is_done(round, seat)) return;
    relax();
  }
  const Deadline deadline(context_.timeout_s());
  const auto where = [&] { return fmt::format("{} at {}", describe_local(seat), describe(round.headers[seat])); };
  std::optional<RemoteWait> remote;
  double looked_at_s = 0;
  for (;; context_.crew().pause(local_index(seat), remote ? kRemoteNap : kLookAround)) {
    context_.throw_if_failed();
    if (is_done(round, seat)) break;
    if (round.phase.load(std::memory_order_acquire) == Phase::exchanging) {
      if (!remote) remote.emplace(context_);
      remote->check(*link_, std::cref(where));
    } else if (const double now_s = deadline.elapsed_s(); now_s - looked_at_s > seconds(kLookAround)) {
      looked_at_s = now_s;
      check_arrivals(round, seat, deadline);
    }
  }
  context_.crew().resumed(local_index(seat));
}

/// Advances the exchange unless another worker is doing so; returns true once it is complete.
bool Channel::try_exchange(Round& round, int seat) {
  std::unique_lock polling(link_mutex_, std::try_to_lock);
  if (!polling) return false;
  if (round.phase.load(std::memory_order_acquire) == Phase::done) return true;
  context_.throw_if_failed();  // the worker that polled before may have received a message that must not count
  const std::uint64_t progress = link_->progress();
  if (!advance(*link_, context_)) {
    if (link_->progress() != progress) context_.crew().resumed(local_index(seat));  // the next step will be ready soon
    return false;
  }
  try {
    complete(round, seat);
  } catch (const Error& error) {
    context_.fail_with(error);
  }
  return true;
}

void Channel::complete(Round& round, int seat) {
  try {
    if (seats_[0].complete) seats_[0].complete();
  } catch (const DeviceError& error) {
    throw error.at("at " + describe(round.headers[0])).at(describe_local(seat));
  }
  set_phase(round, Phase::done);
}

void Channel::check_arrivals(const Round& round, int seat, const Deadline& deadline) {
  const bool late = deadline.passed();
  std::lock_guard lock(mutex_);
  if (round.phase.load(std::memory_order_relaxed) != Phase::collecting) return;
  std::string missing;
  for (int other = 0; other < local_.size(); ++other) {
    if (round.here[other]) continue;
    const bool left = context_.log().has_left(local_index(other));
    if (!left && !late) continue;
    missing += fmt::format("{}{} ({})", missing.empty() ? "" : ", ", context_.log().describe(local_index(other)),
                           left ? "has finished its work and left" : "has not arrived");
  }
  if (missing.empty()) return;
  const std::string where = describe(round.headers[seat]);
  const std::string waits = late ? fmt::format("has waited {:.3g} s", deadline.limit_s()) : "waits";
  context_.fail_with(Error(fmt::format("{} {} at {} for {}", describe_local(seat), waits, where, missing)));
}

std::string Channel::describe_local(int seat) const {
  return context_.topology().describe_worker(local_.first + seat);
}

}  // namespace syncbn::detail
