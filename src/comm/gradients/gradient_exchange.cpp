#include "comm/gradients/gradient_exchange.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "comm/channel.hpp"
#include "comm/devices/device_link.hpp"
#include "comm/gradients/shared_gradients.hpp"
#include "comm/rank_context.hpp"

namespace syncbn {

namespace {

using detail::Deadline;
using detail::Header;

constexpr int kGradientChannel = 1;

std::string label(int bucket) {
  return fmt::format("gradients[bucket {}]", bucket);
}

}  // namespace

GradientExchange::GradientExchange(World& world, std::vector<Bucket> buckets, std::int64_t length, bool overlap,
                                   std::shared_ptr<ExchangeDevice> device)
    : context_(world.context()),
      buckets_(std::move(buckets)),
      length_(length),
      overlap_(overlap),
      first_worker_(world.first_worker()),
      workers_(at(world.local_workers())),
      arrived_(buckets_.size()),
      device_(std::move(device)),
      handed_over_(buckets_.size(), false) {
  for (const Bucket& bucket : buckets_) {
    covered_ = std::max(covered_, bucket.offset + bucket.count);
    if (bucket.offset < 0 || bucket.count < 0 || covered_ > length_)
      throw Error(
          fmt::format("gradient bucket at {} of {} elements in a gradient of {}", bucket.offset, bucket.count, length_),
          ExitCode::usage);
  }
  if (!device_) host_ = std::make_unique<detail::SharedGradients>(world, *context_, buckets_, length_);
  if (!host_ || !host_->complete()) {
    transport_ = context_->transport().duplicate();
    link_ = transport_->connect(kGradientChannel, context_->topology().all());
  }
  if (device_) {
    prepare_device();
  } else {
    rest_ = host_->rest();
    if (link_) received_ = std::make_shared<Buffer>(static_cast<std::size_t>(covered_) * sizeof(float));
    sums_ = link_ ? received_->as<float>() : host_->result();
  }
  if (link_) communicator_ = std::thread([this] { communicate(); });
}

GradientExchange::~GradientExchange() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (communicator_.joinable()) communicator_.join();
  if (transport_ && context_->failed()) transport_->abandon();
}

void GradientExchange::prepare_device() {
  const detail::IndexRange local = context_->topology().local();
  plan_ = detail::fold_leaves(context_->topology().all(), local);
  rest_ = plan_.rest;
  first_mark_ = device_->make_marks(count() * local.size());
  const auto allocate = [this](std::int64_t values) {
    return static_cast<float*>(device_->allocate(static_cast<std::size_t>(values) * sizeof(float)));
  };
  for (int i = 0; i < local.size(); ++i) on_device_.push_back(allocate(length_));
  sums_ = allocate(covered_);
  if (!link_) return;
  std::int64_t longest = 0;
  for (const Bucket& bucket : buckets_) longest = std::max(longest, bucket.count);
  link_ = detail::extend_to_devices(*context_, std::move(link_), *device_, rest_.size(), longest);
}

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
  if (device_) device_->set(mark_of(local, bucket), local);
  if (arrived_[bucket].fetch_add(1, std::memory_order_acq_rel) + 1 < static_cast<int>(workers_.size())) return;
  arrived_[bucket].store(0, std::memory_order_relaxed);
  require_same_step(bucket);
  if (device_) return fold_on_device(bucket, local);
  host_->bring(bucket, workers_[local].round, header_of(bucket));
  context_->crew().notify();  // waiting workers can help to fold
}

void GradientExchange::require_same_step(int bucket) {
  context_->throw_if_failed();
  for (int other = 1; at(other) < workers_.size(); ++other)
    if (workers_[other].step != workers_[0].step)
      context_->fail_with(Error(fmt::format("{} is at {} of step {}, but {} is at step {}", name(other), label(bucket),
                                            workers_[other].step, name(0), workers_[0].step)));
}

/// Folds the pieces that are available.
void GradientExchange::help(int local) {
  if (!host_) return;
  WorkerState& me = workers_[local];
  for (; me.next < count() && host_->brought(me.next, me.round); ++me.next) {
    bool done = false;
    try {
      done = host_->fold(me.next, me.round, local);
    } catch (const Error& error) {
      context_->fail_with(error);
    }
    if (!done) continue;
    if (link_)
      hand_over(me.next);
    else
      context_->crew().notify();
  }
}

void GradientExchange::fold_on_device(int bucket, int by) {
  const std::int64_t values = buckets_[bucket].count;
  for (int local = 0; at(local) < workers_.size(); ++local) device_->follow(mark_of(local, bucket), by);
  for (const detail::Fold& fold : plan_.folds) {
    const bool last = !link_ && &fold == &plan_.folds.back();
    float* left = gradient_of(fold.into, bucket);
    device_->add(left, gradient_of(fold.from, bucket), last ? result_of(bucket) : left, values, by);
  }
  if (!link_ && plan_.folds.empty())
    device_->copy(gradient_of(0, bucket), result_of(bucket), static_cast<std::size_t>(values) * sizeof(float), by);
  device_->set(mark_of(0, bucket), by);
  device_->follow(mark_of(0, bucket), ExchangeDevice::kExchange);
  if (link_)
    hand_over(bucket);
  else
    complete();
}

void GradientExchange::hand_over(int bucket) {
  {
    std::lock_guard lock(mutex_);
    handed_over_[bucket] = true;
  }
  changed_.notify_all();
}

void GradientExchange::complete() {
  if ((completed_.fetch_add(1, std::memory_order_acq_rel) + 1) % buckets_.size() == 0) context_->crew().notify();
}

bool GradientExchange::is_complete(const WorkerState& me) const {
  if (link_ || device_) return completed_.load(std::memory_order_acquire) >= me.round * buckets_.size();
  for (int bucket = count() - 1; bucket >= 0; --bucket)
    if (!host_->folded(bucket, me.round)) return false;
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
  if (!is_complete(me)) {
    std::optional<detail::RemoteWait> remote;
    const bool by_memory = !link_ && !device_ && context_->topology().ranks > 1;
    for (;;) {
      context_->crew().pause(local, by_memory ? detail::kRemoteNap : detail::kLookAround);
      help(local);
      if (is_complete(me)) break;
      check_progress(me, local, deadline);
      if (!by_memory) continue;
      int bucket = 0;
      while (bucket + 1 < count() && host_->folded(bucket, me.round)) ++bucket;
      if (!remote) remote.emplace(*context_);
      remote->check([&] { return describe_exchange(bucket); }, [&] { return host_->missing(bucket, me.round); });
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
    const bool left = context_->has_left(other);
    const std::uint64_t released = workers_[other].released.load(std::memory_order_relaxed);
    if (released >= me.round * buckets_.size() || (!left && !late)) continue;
    const std::uint64_t bucket = released % buckets_.size();
    context_->fail_with(Error(fmt::format(
        "{} waits for the gradients of step {}, but {} {} after {} of {} buckets", name(local), me.step, name(other),
        left ? "has finished its work and left" : fmt::format("has been silent for {:.3g} s", deadline.limit_s()),
        bucket, buckets_.size())));
  }
}

/// The body of the thread that waits for the network.
void GradientExchange::communicate() {
  try {
    if (device_) device_->prepare_thread();
    for (int bucket = 0;; bucket = (bucket + 1) % std::max(1, count())) {
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return stop_ || (!buckets_.empty() && handed_over_[bucket]); });
        if (stop_) return;
        handed_over_[bucket] = false;
      }
      start_exchange(bucket);
      detail::drive(*link_, *context_, [&] { return describe_exchange(bucket); });
      complete();
    }
  } catch (...) {
    context_->fail(std::current_exception());  // wakes the workers in wait()
    link_->give_up();
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

void GradientExchange::start_exchange(int bucket) {
  std::vector<std::byte*> blocks;
  for (const int local : rest_) blocks.push_back(reinterpret_cast<std::byte*>(gradient_of(local, bucket)));
  link_->start(header_of(bucket), blocks, {received_, reinterpret_cast<std::byte*>(result_of(bucket))});
}

std::string GradientExchange::describe_exchange(int bucket) const {
  return fmt::format("{} at {}", context_->topology().describe_rank(context_->topology().rank),
                     describe(header_of(bucket)));
}

std::span<float> GradientExchange::gradient(const Worker& worker) {
  return {gradient_of(worker.local_index()), static_cast<std::size_t>(length_)};
}

float* GradientExchange::gradient_of(int local) const {
  return host_ ? host_->gradient(first_worker_ + local) : on_device_[local];
}

std::span<const float> GradientExchange::result() const {
  return {sums_, static_cast<std::size_t>(covered_)};
}

bool GradientExchange::lacks_room() const {
  return host_ && host_->lacks_room();
}

std::string GradientExchange::name(int local) const {
  return context_->topology().describe_worker(first_worker_ + local);
}

}  // namespace syncbn
