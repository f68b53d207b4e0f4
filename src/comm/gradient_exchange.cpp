#include "comm/gradient_exchange.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>

#include "comm/channel.hpp"
#include "comm/device_link.hpp"
#include "comm/rank_context.hpp"
#include "comm/shared_gradients.hpp"

namespace syncbn {

namespace {

using detail::Deadline;
using detail::Header;
using detail::RankContext;

constexpr int kGradientChannel = 1;

}  // namespace

struct GradientExchange::Impl {
  struct WorkerState {
    std::int64_t step = 0;
    bool open = false;        // between begin() and wait()
    std::uint64_t round = 0;  // steps begun
    int next = 0;             // of the buckets, to help with
    std::vector<char> ready;
    std::atomic<std::uint64_t> released{0};  // buckets handed in since the beginning of time
    double waited_s = 0;
  };

  Impl(World& world, std::vector<Bucket> bucket_list, std::int64_t values, bool overlapped,
       std::shared_ptr<ExchangeDevice> exchange_device);
  ~Impl();
  void prepare_device();
  void begin(int local, std::int64_t step);
  void ready(int local, int bucket);
  void wait(int local);

  void release(int local, int bucket);
  void require_same_step(int bucket);
  void help(int local);
  void fold_on_device(int bucket, int by);
  void hand_over(int bucket);
  void complete();
  bool is_complete(const WorkerState& me) const;
  void check_progress(const WorkerState& me, int local, const Deadline& deadline);
  void communicate();
  void start_exchange(int bucket);
  Header header_of(int bucket) const;
  std::string describe_exchange(int bucket) const;
  int count() const { return static_cast<int>(buckets.size()); }
  float* gradient(int local) const { return host ? host->gradient(first_worker + local) : on_device[at(local)]; }
  float* gradient(int local, int bucket) const { return gradient(local) + buckets[at(bucket)].offset; }
  float* result_of(int bucket) const { return sums + buckets[at(bucket)].offset; }
  /// On a device: the latest value in this worker's gradient is complete.
  int mark_of(int local, int bucket) const { return first_mark + bucket * static_cast<int>(workers.size()) + local; }
  std::string name(int local) const { return context->topology().describe_worker(first_worker + local); }
  static std::string label(int bucket) { return fmt::format("gradients[bucket {}]", bucket); }
  static std::size_t at(int i) { return static_cast<std::size_t>(i); }

  std::shared_ptr<RankContext> context;
  const std::vector<Bucket> buckets;
  const std::int64_t length;  // of a gradient
  const bool overlap;
  const int first_worker;
  std::int64_t covered = 0;  // by the buckets
  float* sums = nullptr;     // the result
  std::vector<WorkerState> workers;
  std::vector<std::atomic<int>> arrived;  // workers of this rank, per bucket

  // In the processor's memory; else null.
  std::unique_ptr<detail::SharedGradients> host;
  // On a device; else null.
  const std::shared_ptr<ExchangeDevice> device;
  int first_mark = 0;
  std::vector<float*> on_device;  // the workers' gradients
  detail::FoldPlan plan;          // of this rank's workers

  // Between ranks that do not share memory; else null.
  std::unique_ptr<detail::Transport> transport;
  std::unique_ptr<detail::Link> link;
  std::shared_ptr<Buffer> received;         // the result, if it is the processor's
  std::vector<int> rest;                    // of the local tree: what the other ranks need
  std::atomic<std::uint64_t> completed{0};  // buckets, since the beginning of time; counted on a device as well
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<bool> handed_over;
  bool stop = false;
  std::thread communicator;
};

GradientExchange::Impl::Impl(World& world, std::vector<Bucket> bucket_list, std::int64_t values, bool overlapped,
                             std::shared_ptr<ExchangeDevice> exchange_device)
    : context(world.context()),
      buckets(std::move(bucket_list)),
      length(values),
      overlap(overlapped),
      first_worker(world.first_worker()),
      workers(at(world.local_workers())),
      arrived(buckets.size()),
      device(std::move(exchange_device)),
      handed_over(buckets.size(), false) {
  for (const Bucket& bucket : buckets) {
    covered = std::max(covered, bucket.offset + bucket.count);
    if (bucket.offset < 0 || bucket.count < 0 || covered > length)
      throw Error(
          fmt::format("gradient bucket at {} of {} elements in a gradient of {}", bucket.offset, bucket.count, length),
          ExitCode::usage);
  }
  if (!device) host = std::make_unique<detail::SharedGradients>(world, *context, buckets, length);
  if (!host || !host->complete()) {
    transport = context->transport().duplicate();
    link = transport->connect(kGradientChannel, context->topology().all());
  }
  if (device) {
    prepare_device();
  } else {
    rest = host->rest();
    if (link) received = std::make_shared<Buffer>(static_cast<std::size_t>(covered) * sizeof(float));
    sums = link ? received->as<float>() : host->result();
  }
  if (link) communicator = std::thread([this] { communicate(); });
}

GradientExchange::Impl::~Impl() {
  {
    std::lock_guard lock(mutex);
    stop = true;
  }
  changed.notify_all();
  if (communicator.joinable()) communicator.join();
  if (transport && context->failed()) transport->abandon();
}

void GradientExchange::Impl::prepare_device() {
  const detail::IndexRange local = context->topology().local();
  plan = detail::fold_leaves(context->topology().all(), local);
  rest = plan.rest;
  first_mark = device->make_marks(count() * local.size());
  const auto allocate = [this](std::int64_t values) {
    return static_cast<float*>(device->allocate(static_cast<std::size_t>(values) * sizeof(float)));
  };
  for (int i = 0; i < local.size(); ++i) on_device.push_back(allocate(length));
  sums = allocate(covered);
  if (!link) return;
  std::int64_t longest = 0;
  for (const Bucket& bucket : buckets) longest = std::max(longest, bucket.count);
  link = detail::extend_to_devices(*context, std::move(link), *device, rest.size(), longest);
}

void GradientExchange::Impl::begin(int local, std::int64_t step) {
  context->throw_if_failed();
  WorkerState& me = workers[at(local)];
  if (me.open)
    context->fail_with(
        Error(fmt::format("{} begins step {} before it has waited for step {}", name(local), step, me.step)));
  me.open = true;
  me.step = step;
  me.ready.assign(buckets.size(), 0);
  me.next = 0;
  ++me.round;
}

void GradientExchange::Impl::ready(int local, int bucket) {
  context->throw_if_failed();
  WorkerState& me = workers[at(local)];
  if (bucket < 0 || bucket >= count() || !me.open || me.ready[at(bucket)])
    context->fail_with(Error(
        fmt::format("{} says that bucket {} of {} is ready in step {}: {}", name(local), bucket, buckets.size(),
                    me.step, me.open ? "there is no such bucket, or it was ready before" : "begin() was not called")));
  me.ready[at(bucket)] = 1;
  if (!overlap) return;
  release(local, bucket);
  help(local);
}

void GradientExchange::Impl::release(int local, int bucket) {
  workers[at(local)].released.fetch_add(1, std::memory_order_relaxed);
  if (device) device->set(mark_of(local, bucket), local);
  if (arrived[at(bucket)].fetch_add(1, std::memory_order_acq_rel) + 1 < static_cast<int>(workers.size())) return;
  arrived[at(bucket)].store(0, std::memory_order_relaxed);
  require_same_step(bucket);
  if (device) return fold_on_device(bucket, local);
  host->bring(bucket, workers[at(local)].round, header_of(bucket));
  context->crew().notify();  // those who wait can help
}

void GradientExchange::Impl::require_same_step(int bucket) {
  context->throw_if_failed();
  for (int other = 1; at(other) < workers.size(); ++other)
    if (workers[at(other)].step != workers[0].step)
      context->fail_with(Error(fmt::format("{} is at {} of step {}, but {} is at step {}", name(other), label(bucket),
                                           workers[at(other)].step, name(0), workers[0].step)));
}

/// Folds what there is to be folded.
void GradientExchange::Impl::help(int local) {
  if (!host) return;
  WorkerState& me = workers[at(local)];
  for (; me.next < count() && host->brought(me.next, me.round); ++me.next) {
    bool done = false;
    try {
      done = host->fold(me.next, me.round, local);
    } catch (const Error& error) {
      context->fail_with(error);
    }
    if (!done) continue;
    if (link)
      hand_over(me.next);
    else
      context->crew().notify();
  }
}

void GradientExchange::Impl::fold_on_device(int bucket, int by) {
  const std::int64_t values = buckets[at(bucket)].count;
  for (int local = 0; at(local) < workers.size(); ++local) device->follow(mark_of(local, bucket), by);
  for (const detail::Fold& fold : plan.folds) {
    const bool last = !link && &fold == &plan.folds.back();
    float* left = gradient(fold.into, bucket);
    device->add(left, gradient(fold.from, bucket), last ? result_of(bucket) : left, values, by);
  }
  if (!link && plan.folds.empty())
    device->copy(gradient(0, bucket), result_of(bucket), static_cast<std::size_t>(values) * sizeof(float), by);
  device->set(mark_of(0, bucket), by);
  device->follow(mark_of(0, bucket), ExchangeDevice::kExchange);
  if (link)
    hand_over(bucket);
  else
    complete();
}

void GradientExchange::Impl::hand_over(int bucket) {
  {
    std::lock_guard lock(mutex);
    handed_over[at(bucket)] = true;
  }
  changed.notify_all();
}

void GradientExchange::Impl::complete() {
  if ((completed.fetch_add(1, std::memory_order_acq_rel) + 1) % buckets.size() == 0) context->crew().notify();
}

bool GradientExchange::Impl::is_complete(const WorkerState& me) const {
  if (link || device) return completed.load(std::memory_order_acquire) >= me.round * buckets.size();
  for (int bucket = count() - 1; bucket >= 0; --bucket)
    if (!host->folded(bucket, me.round)) return false;
  return true;
}

void GradientExchange::Impl::wait(int local) {
  WorkerState& me = workers[at(local)];
  const Deadline deadline(context->timeout_s());
  const auto missing = std::find(me.ready.begin(), me.ready.end(), 0);
  if (!me.open || missing != me.ready.end())
    context->fail_with(Error(fmt::format(
        "{} waits for the gradients of step {}, but {}", name(local), me.step,
        me.open ? fmt::format("bucket {} was never ready", missing - me.ready.begin()) : "begin() was not called")));
  if (!overlap)
    for (int bucket = 0; bucket < count(); ++bucket) release(local, bucket);
  help(local);
  if (!is_complete(me)) {
    std::optional<detail::RemoteWait> remote;
    const bool by_memory = !link && !device && context->topology().ranks > 1;
    for (;;) {
      context->crew().pause(local, by_memory ? detail::kRemoteNap : detail::kLookAround);
      help(local);
      if (is_complete(me)) break;
      check_progress(me, local, deadline);
      if (!by_memory) continue;
      int bucket = 0;
      while (bucket + 1 < count() && host->folded(bucket, me.round)) ++bucket;
      if (!remote) remote.emplace(*context);
      remote->check([&] { return describe_exchange(bucket); }, [&] { return host->missing(bucket, me.round); });
    }
    context->crew().resumed(local);
  }
  me.open = false;
  me.waited_s += deadline.elapsed_s();
}

/// Throws when a worker of this rank cannot, or did not in time, bring its buckets.
void GradientExchange::Impl::check_progress(const WorkerState& me, int local, const Deadline& deadline) {
  context->throw_if_failed();
  const bool late = deadline.passed();
  for (int other = 0; at(other) < workers.size(); ++other) {
    const bool left = context->has_left(other);
    const std::uint64_t released = workers[at(other)].released.load(std::memory_order_relaxed);
    if (released >= me.round * buckets.size() || (!left && !late)) continue;
    const std::uint64_t bucket = released % buckets.size();
    context->fail_with(Error(fmt::format(
        "{} waits for the gradients of step {}, but {} {} after {} of {} buckets", name(local), me.step, name(other),
        left ? "has finished its work and left" : fmt::format("has been silent for {:.3g} s", deadline.limit_s()),
        bucket, buckets.size())));
  }
}

/// The thread that waits for the network.
void GradientExchange::Impl::communicate() {
  try {
    if (device) device->prepare_thread();
    for (int bucket = 0;; bucket = (bucket + 1) % std::max(1, count())) {
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return stop || (!buckets.empty() && handed_over[at(bucket)]); });
        if (stop) return;
        handed_over[at(bucket)] = false;
      }
      start_exchange(bucket);
      detail::drive(*link, *context, [&] { return describe_exchange(bucket); });
      complete();
    }
  } catch (...) {
    context->fail(std::current_exception());  // reaches the workers in wait()
    link->give_up();
  }
}

Header GradientExchange::Impl::header_of(int bucket) const {
  const std::string layer = label(bucket);
  Header header = Header::make(detail::Operation::all_reduce, {layer, workers[0].step});
  header.worker = first_worker;
  header.sequence = workers[0].round;
  header.type = detail::Element::f32;
  header.count = buckets[at(bucket)].count;
  return header;
}

void GradientExchange::Impl::start_exchange(int bucket) {
  std::vector<std::byte*> blocks;
  for (const int local : rest) blocks.push_back(reinterpret_cast<std::byte*>(gradient(local, bucket)));
  link->start(header_of(bucket), blocks, {received, reinterpret_cast<std::byte*>(result_of(bucket))});
}

std::string GradientExchange::Impl::describe_exchange(int bucket) const {
  return fmt::format("{} at {}", context->topology().describe_rank(context->topology().rank),
                     describe(header_of(bucket)));
}

GradientExchange::GradientExchange(World& world, std::vector<Bucket> buckets, std::int64_t length, bool overlap,
                                   std::shared_ptr<ExchangeDevice> device)
    : impl_(std::make_unique<Impl>(world, std::move(buckets), length, overlap, std::move(device))) {}

GradientExchange::~GradientExchange() = default;

std::span<float> GradientExchange::gradient(const Worker& worker) {
  return {impl_->gradient(worker.local_index()), static_cast<std::size_t>(impl_->length)};
}

void GradientExchange::begin(const Worker& worker, std::int64_t step) {
  impl_->begin(worker.local_index(), step);
}

void GradientExchange::ready(const Worker& worker, int bucket) {
  impl_->ready(worker.local_index(), bucket);
}

void GradientExchange::wait(const Worker& worker) {
  impl_->wait(worker.local_index());
}

std::span<const float> GradientExchange::result() const {
  return {impl_->sums, static_cast<std::size_t>(impl_->covered)};
}

bool GradientExchange::lacks_room() const {
  return impl_->host && impl_->host->lacks_room();
}

double GradientExchange::waited_seconds(const Worker& worker) const {
  return impl_->workers[Impl::at(worker.local_index())].waited_s;
}

}  // namespace syncbn
