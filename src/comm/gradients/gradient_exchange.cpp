#include "comm/gradients/gradient_exchange.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "comm/gradients/device_gradients.hpp"
#include "comm/gradients/rank_exchange.hpp"
#include "comm/gradients/shared_gradients.hpp"
#include "comm/rank_context.hpp"
#include "comm/remote_wait.hpp"

namespace syncbn {

namespace {

using detail::Deadline;
using detail::Header;

std::string label(int bucket) {
  return fmt::format("gradients[bucket {}]", bucket);
}

}  // namespace

GradientExchange::GradientExchange(World& world, std::vector<Slice> buckets, std::int64_t length, bool overlap,
                                   std::shared_ptr<ExchangeDevice> device)
    : context_(world.context()),
      buckets_(std::move(buckets)),
      length_(length),
      overlap_(overlap),
      first_worker_(world.first_worker()),
      workers_(at(world.local_workers())),
      arrived_(buckets_.size()) {
  for (const Slice& bucket : buckets_) {
    covered_ = std::max(covered_, bucket.begin + bucket.count);
    if (bucket.begin < 0 || bucket.count < 0 || covered_ > length_)
      throw Error(
          fmt::format("gradient bucket at {} of {} elements in a gradient of {}", bucket.begin, bucket.count, length_),
          ExitCode::usage);
  }
  if (device) {
    gradients_ = std::make_unique<detail::DeviceGradients>(*context_, buckets_, length_, std::move(device));
  } else {
    auto shared = std::make_unique<detail::SharedGradients>(world, *context_, buckets_, length_);
    lacks_room_ = shared->lacks_room();
    gradients_ = std::move(shared);
  }
  if (!gradients_->complete()) exchange_ = std::make_unique<detail::RankExchange>(*context_, *gradients_, buckets_);
}

GradientExchange::~GradientExchange() = default;

void GradientExchange::begin(const Worker& worker, std::int64_t step) {
  const int local = worker.local_index();
  context_->throw_if_failed();
  WorkerState& me = workers_[local];
  if (me.open)
    context_->fail_with(
        Error(fmt::format("{} begins step {} before it has waited for step {}", name(local), step, me.step)));
  me.open = true;
  me.step = step;
  me.ready.assign(buckets_.size(), 0);
  me.next = 0;
  ++me.round;
}

void GradientExchange::ready(const Worker& worker, int bucket) {
  const int local = worker.local_index();
  context_->throw_if_failed();
  WorkerState& me = workers_[local];
  if (bucket < 0 || bucket >= count() || !me.open || me.ready[bucket])
    context_->fail_with(Error(
        fmt::format("{} says that bucket {} of {} is ready in step {}: {}", name(local), bucket, buckets_.size(),
                    me.step, me.open ? "there is no such bucket, or it was ready before" : "begin() was not called")));
  me.ready[bucket] = 1;
  if (!overlap_) return;
  release(local, bucket);
  help(local);
}

void GradientExchange::release(int local, int bucket) {
  workers_[local].released.fetch_add(1, std::memory_order_relaxed);
  gradients_->written(bucket, local);
  if (arrived_[bucket].fetch_add(1, std::memory_order_acq_rel) + 1 < static_cast<int>(workers_.size())) return;
  arrived_[bucket].store(0, std::memory_order_relaxed);
  require_same_step(bucket);
  gradients_->bring(bucket, workers_[local].round, header_of(bucket), local);
  context_->crew().notify();  // waiting workers can help to fold
}

void GradientExchange::require_same_step(int bucket) {
  context_->throw_if_failed();
  for (int other = 1; at(other) < workers_.size(); ++other)
    if (workers_[other].step != workers_[0].step)
      context_->fail_with(Error(fmt::format("{} is at {} of step {}, but {} is at step {}", name(other), label(bucket),
                                            workers_[other].step, name(0), workers_[0].step)));
}

/// Does what can be done for the buckets that all have brought.
void GradientExchange::help(int local) {
  WorkerState& me = workers_[local];
  try {
    for (; me.next < count() && gradients_->brought(me.next, me.round); ++me.next)
      if (gradients_->fold(me.next, me.round, local)) pass_on(me.next);
  } catch (const Error& error) {
    context_->fail_with(error);
  }
}

/// Called when this rank has summed its share of a bucket.
void GradientExchange::pass_on(int bucket) {
  if (exchange_)
    exchange_->hand_over(bucket, header_of(bucket));
  else
    context_->crew().notify();
}

bool GradientExchange::is_complete(std::uint64_t round) const {
  if (exchange_) return exchange_->exchanged(round);
  for (int bucket = count() - 1; bucket >= 0; --bucket)
    if (!gradients_->folded(bucket, round)) return false;
  return true;
}

void GradientExchange::wait(const Worker& worker) {
  const int local = worker.local_index();
  WorkerState& me = workers_[local];
  const Deadline deadline(context_->timeout_s());
  const auto missing = std::find(me.ready.begin(), me.ready.end(), 0);
  if (!me.open || missing != me.ready.end())
    context_->fail_with(Error(fmt::format(
        "{} waits for the gradients of step {}, but {}", name(local), me.step,
        me.open ? fmt::format("bucket {} was never ready", missing - me.ready.begin()) : "begin() was not called")));
  if (!overlap_)
    for (int bucket = 0; bucket < count(); ++bucket) release(local, bucket);
  help(local);
  if (!is_complete(me.round)) {
    std::optional<detail::RemoteWait> remote;
    const bool by_memory = !exchange_ && context_->topology().ranks > 1;
    for (;;) {
      context_->crew().pause(local, by_memory ? detail::kRemoteNap : detail::kLookAround);
      help(local);
      if (is_complete(me.round)) break;
      check_progress(me, local, deadline);
      if (!by_memory) continue;
      int bucket = 0;
      while (bucket + 1 < count() && gradients_->folded(bucket, me.round)) ++bucket;
      if (!remote) remote.emplace(*context_);
      remote->check([&] { return context_->describe_rank_at(header_of(bucket)); },
                    [&] { return gradients_->missing(bucket, me.round); });
    }
    context_->crew().resumed(local);
  }
  me.open = false;
  me.waited_s += deadline.elapsed_s();
}

/// Throws when a worker of this rank has left without bringing all its buckets, or has not brought them in time.
void GradientExchange::check_progress(const WorkerState& me, int local, const Deadline& deadline) {
  context_->throw_if_failed();
  const bool late = deadline.passed();
  for (int other = 0; at(other) < workers_.size(); ++other) {
    const bool left = context_->log().has_left(other);
    const std::uint64_t released = workers_[other].released.load(std::memory_order_relaxed);
    if (released >= me.round * buckets_.size() || (!left && !late)) continue;
    const std::uint64_t bucket = released % buckets_.size();
    context_->fail_with(Error(fmt::format(
        "{} waits for the gradients of step {}, but {} {} after {} of {} buckets", name(local), me.step, name(other),
        left ? "has finished its work and left" : fmt::format("has been silent for {:.3g} s", deadline.limit_s()),
        bucket, buckets_.size())));
  }
}

Header GradientExchange::header_of(int bucket) const {
  const std::string layer = label(bucket);
  Header header = Header::make(detail::Operation::all_reduce, {layer, workers_[0].step});
  header.worker = first_worker_;
  header.sequence = workers_[0].round;
  header.type = detail::Element::f32;
  header.count = buckets_[bucket].count;
  return header;
}

std::span<float> GradientExchange::gradient(const Worker& worker) {
  return {gradients_->gradient(worker.local_index()), static_cast<std::size_t>(length_)};
}

std::span<const float> GradientExchange::result() const {
  return {reinterpret_cast<const float*>(gradients_->result().data), static_cast<std::size_t>(covered_)};
}

std::string GradientExchange::name(int local) const {
  return context_->topology().describe_worker(first_worker_ + local);
}

}  // namespace syncbn
