#include "syncbn/comm/gradient_exchange.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <optional>
#include <thread>

#include "comm/channel.hpp"
#include "comm/device_link.hpp"
#include "comm/world_state.hpp"

namespace syncbn {

namespace {

using detail::Deadline;
using detail::Fold;
using detail::Header;
using detail::RankContext;

constexpr int kGradientChannel = 1;

}  // namespace

struct GradientExchange::Impl {
  /// One addition of the local tree: whoever completes the second child does it.
  struct Node {
    Fold fold;
    int parent = -1;
  };
  struct WorkerState {
    float* gradient = nullptr;
    std::int64_t step = 0;
    bool open = false;  // between begin() and wait()
    std::vector<char> ready;
    std::uint64_t target = 0;                // completed buckets that end this step
    std::atomic<std::uint64_t> released{0};  // buckets handed in since the beginning of time
    double waited_s = 0;
  };

  Impl(World& world, std::shared_ptr<RankContext> rank_context, std::vector<Bucket> bucket_list, bool overlapped,
       std::shared_ptr<ExchangeDevice> exchange_device);
  ~Impl();
  void build_nodes();
  void prepare_result();
  void begin(int local, std::span<float> gradient, std::int64_t step);
  void ready(int local, int bucket);
  void wait(int local);

  void release(int local, int bucket);
  void fold(const Node& node, int bucket, bool is_root, int by);
  void complete_here(int bucket, int by);
  void complete();
  void check_progress(const WorkerState& me, int local, const Deadline& deadline);
  void communicate();
  void start_exchange();
  std::string describe_exchange() const;
  bool try_exchange();
  float* gradient_of(int local, int bucket) const { return workers[at(local)].gradient + buckets[at(bucket)].offset; }
  float* result_of(int bucket) const { return sums + buckets[at(bucket)].offset; }
  /// On a device: the latest value in this worker's gradient is complete.
  int mark_of(int local, int bucket) const { return first_mark + bucket * static_cast<int>(workers.size()) + local; }
  std::string name(int local) const { return context->layout().describe_worker(first_worker + local); }
  static std::string label(int bucket) { return fmt::format("gradients[bucket {}]", bucket); }
  static std::size_t at(int i) { return static_cast<std::size_t>(i); }

  std::shared_ptr<RankContext> context;
  const std::vector<Bucket> buckets;
  const bool overlap;
  const int first_worker;
  const std::shared_ptr<ExchangeDevice> device;  // null: all is in the processor's memory
  std::int64_t length = 0;
  int first_mark = 0;
  std::shared_ptr<Buffer> result;  // in the processor's memory
  float* sums = nullptr;           // where the result is

  std::vector<detail::Block> rest;  // of the local tree: what the other ranks need
  std::vector<Node> nodes;
  std::vector<int> node_of_leaf;              // -1: the leaf is a block of its own
  std::vector<std::atomic<int>> half_done;    // per bucket and node: 1 when one child has arrived
  std::vector<std::atomic<int>> open_blocks;  // per bucket
  std::vector<WorkerState> workers;

  std::atomic<std::uint64_t> completed{0};  // buckets, since the beginning of time

  std::mutex mutex;
  std::condition_variable changed;
  std::vector<bool> handed_over;
  bool stop = false;
  std::unique_ptr<detail::Transport> transport;
  std::unique_ptr<detail::Link> link;  // null: all workers are here

  // Of the exchange between ranks: touched by the communication thread, or else under exchange_mutex.
  std::mutex exchange_mutex;
  std::uint64_t exchanged = 0;  // buckets, since the beginning of time
  bool exchanging = false;
  Header header;
  std::thread communicator;
};

GradientExchange::Impl::Impl(World& world, std::shared_ptr<RankContext> rank_context, std::vector<Bucket> bucket_list,
                             bool overlapped, std::shared_ptr<ExchangeDevice> exchange_device)
    : context(std::move(rank_context)),
      buckets(std::move(bucket_list)),
      overlap(overlapped),
      first_worker(world.first_worker()),
      device(std::move(exchange_device)),
      workers(at(world.local_workers())),
      handed_over(buckets.size(), false) {
  for (const Bucket& bucket : buckets) {
    if (bucket.offset < 0 || bucket.count < 0)
      throw Error(fmt::format("gradient bucket at {} of {} elements", bucket.offset, bucket.count), ExitCode::usage);
    length = std::max(length, bucket.offset + bucket.count);
  }
  build_nodes();
  half_done = std::vector<std::atomic<int>>(buckets.size() * nodes.size());
  open_blocks = std::vector<std::atomic<int>>(buckets.size());
  for (auto& open : open_blocks) open.store(static_cast<int>(rest.size()));
  transport = context->transport().duplicate();
  link = transport->connect(kGradientChannel, {0, world.workers()});
  prepare_result();
  if (link && !link->in_memory()) communicator = std::thread([this] { communicate(); });
}

GradientExchange::Impl::~Impl() {
  {
    std::lock_guard lock(mutex);
    stop = true;
  }
  changed.notify_all();
  if (communicator.joinable()) communicator.join();
  if (context->failed()) transport->abandon();
}

void GradientExchange::Impl::build_nodes() {
  const detail::WorkerRange local = context->layout().local();
  const detail::FoldPlan plan = detail::fold_plan(context->layout().workers, detail::leaves(local.first, local.last));
  rest = plan.rest;
  node_of_leaf.assign(at(local.size()), -1);
  std::vector<int> latest(at(local.size()), -1);  // the node whose value worker i's gradient now holds
  for (const Fold& fold : plan.folds) {
    const int number = static_cast<int>(nodes.size());
    nodes.push_back({fold, -1});
    for (const int child : {fold.into, fold.from}) {
      if (latest[at(child)] < 0)
        node_of_leaf[at(child)] = number;
      else
        nodes[at(latest[at(child)])].parent = number;
    }
    latest[at(fold.into)] = number;
  }
}

void GradientExchange::Impl::prepare_result() {
  if (!device) {
    result = std::make_shared<Buffer>(static_cast<std::size_t>(length) * sizeof(float));
    sums = result->as<float>();
    return;
  }
  first_mark = device->make_marks(static_cast<int>(buckets.size() * workers.size()));
  sums = static_cast<float*>(device->allocate(static_cast<std::size_t>(length) * sizeof(float)));
  if (!link) return;
  std::int64_t longest = 0;
  for (const Bucket& bucket : buckets) longest = std::max(longest, bucket.count);
  link = detail::extend_to_devices(*context, std::move(link), *device, rest.size(), longest);
}

void GradientExchange::Impl::begin(int local, std::span<float> gradient, std::int64_t step) {
  context->throw_if_failed();
  WorkerState& me = workers[at(local)];
  if (me.open)
    context->fail_with(
        Error(fmt::format("{} begins step {} before it has waited for step {}", name(local), step, me.step)));
  if (static_cast<std::int64_t>(gradient.size()) < length)
    context->fail_with(
        Error(fmt::format("{} brings {} gradients, the buckets need {}", name(local), gradient.size(), length)));
  me.open = true;
  me.gradient = gradient.data();
  me.step = step;
  me.ready.assign(buckets.size(), 0);
  me.target += buckets.size();
}

void GradientExchange::Impl::ready(int local, int bucket) {
  context->throw_if_failed();
  WorkerState& me = workers[at(local)];
  if (bucket < 0 || at(bucket) >= buckets.size() || !me.open || me.ready[at(bucket)])
    context->fail_with(Error(
        fmt::format("{} says that bucket {} of {} is ready in step {}: {}", name(local), bucket, buckets.size(),
                    me.step, me.open ? "there is no such bucket, or it was ready before" : "begin() was not called")));
  me.ready[at(bucket)] = 1;
  if (!overlap) return;
  release(local, bucket);
  if (link && link->in_memory()) try_exchange();
}

void GradientExchange::Impl::release(int local, int bucket) {
  workers[at(local)].released.fetch_add(1, std::memory_order_relaxed);
  if (device) device->set(mark_of(local, bucket), local);
  int node = node_of_leaf[at(local)];
  while (node >= 0) {
    // 0 -> 1: the other child goes on from here. 1 -> 0: both are there, and the flag is fit for the next step.
    auto& flag = half_done[at(bucket) * nodes.size() + at(node)];
    if (flag.fetch_xor(1, std::memory_order_acq_rel) == 0) return;
    const int parent = nodes[at(node)].parent;
    fold(nodes[at(node)], bucket, parent < 0 && rest.size() == 1 && !link, local);
    node = parent;
  }
  if (open_blocks[at(bucket)].fetch_sub(1, std::memory_order_acq_rel) > 1) return;
  open_blocks[at(bucket)].store(static_cast<int>(rest.size()), std::memory_order_relaxed);
  complete_here(bucket, local);
}

void GradientExchange::Impl::fold(const Node& node, int bucket, bool is_root, int by) {
  context->throw_if_failed();
  const WorkerState& left = workers[at(node.fold.into)];
  const WorkerState& right = workers[at(node.fold.from)];
  if (left.step != right.step)
    context->fail_with(Error(fmt::format("{} is at {} of step {}, but {} is at step {}", name(node.fold.from),
                                         label(bucket), right.step, name(node.fold.into), left.step)));
  float* lower = gradient_of(node.fold.into, bucket);
  const float* upper = gradient_of(node.fold.from, bucket);
  float* into = is_root ? result_of(bucket) : lower;
  if (!device) {
    return detail::combine(reinterpret_cast<std::byte*>(into), reinterpret_cast<const std::byte*>(lower),
                           reinterpret_cast<const std::byte*>(upper), buckets[at(bucket)].count, detail::Element::f32,
                           Reduce::sum);
  }
  for (const int child : {node.fold.into, node.fold.from}) device->follow(mark_of(child, bucket), by);
  device->add(lower, upper, into, buckets[at(bucket)].count, by);
  device->set(mark_of(node.fold.into, bucket), by);
}

void GradientExchange::Impl::complete_here(int bucket, int by) {
  if (!link && nodes.empty()) {
    if (device) {
      device->copy(gradient_of(0, bucket), result_of(bucket),
                   static_cast<std::size_t>(buckets[at(bucket)].count) * sizeof(float), by);
      device->set(mark_of(0, bucket), by);
    } else {
      std::copy_n(gradient_of(0, bucket), buckets[at(bucket)].count, result_of(bucket));
    }
  }
  for (const detail::Block& block : rest)
    if (device) device->follow(mark_of(block.item, bucket), ExchangeDevice::kExchange);
  if (!link) return complete();
  {
    std::lock_guard lock(mutex);
    handed_over[at(bucket)] = true;
  }
  if (link->in_memory())
    try_exchange();
  else
    changed.notify_all();
}

void GradientExchange::Impl::complete() {
  if ((completed.fetch_add(1, std::memory_order_acq_rel) + 1) % buckets.size() == 0) context->crew().notify();
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
    for (int bucket = 0; at(bucket) < buckets.size(); ++bucket) release(local, bucket);
  if (completed.load(std::memory_order_acquire) < me.target) {
    const bool by_workers = link && link->in_memory();
    std::optional<detail::RemoteWait> remote;
    for (;; context->crew().pause(local, by_workers ? detail::kRemoteNap : detail::kLookAround)) {
      if (by_workers && try_exchange()) context->crew().resumed(local);
      if (completed.load(std::memory_order_acquire) >= me.target) break;
      check_progress(me, local, deadline);
      if (!by_workers) continue;
      const std::unique_lock lock(exchange_mutex, std::try_to_lock);
      if (!lock || !exchanging) continue;
      if (!remote) remote.emplace(*context);
      remote->check(*link, [this] { return describe_exchange(); });
    }
    context->crew().resumed(local);
  }
  me.open = false;
  me.waited_s += deadline.elapsed_s();
}

/// Throws when a worker of this rank cannot, or did not in time, bring its buckets. The other ranks are the
/// communication thread's to watch.
void GradientExchange::Impl::check_progress(const WorkerState& me, int local, const Deadline& deadline) {
  context->throw_if_failed();
  const bool late = deadline.passed();
  for (int other = 0; at(other) < workers.size(); ++other) {
    const bool left = context->has_left(other);
    const std::uint64_t released = workers[at(other)].released.load(std::memory_order_relaxed);
    if (released >= me.target || (!left && !late)) continue;
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
    for (;; ++exchanged) {
      const int bucket = static_cast<int>(exchanged % std::max<std::size_t>(1, buckets.size()));
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return stop || (!buckets.empty() && handed_over[at(bucket)]); });
        if (stop) return;
        handed_over[at(bucket)] = false;
      }
      start_exchange();
      detail::drive(*link, *context, [this] { return describe_exchange(); });
      complete();
    }
  } catch (...) {
    context->fail(std::current_exception());  // reaches the workers in wait()
    link->give_up();
  }
}

/// By the workers, now and then, when the other ranks are reached through memory. Whether it came a step further.
bool GradientExchange::Impl::try_exchange() {
  const std::unique_lock lock(exchange_mutex, std::try_to_lock);
  if (!lock) return false;
  const std::uint64_t progress = link->progress();
  for (;; ++exchanged) {
    if (!exchanging) {
      std::lock_guard handing(mutex);
      const auto ready = handed_over.begin() + static_cast<std::ptrdiff_t>(exchanged % buckets.size());
      if (!*ready) return link->progress() != progress;
      *ready = false;
    }
    if (!exchanging) start_exchange();
    exchanging = true;
    if (!detail::advance(*link, *context)) return link->progress() != progress;
    exchanging = false;
    complete();
  }
}

void GradientExchange::Impl::start_exchange() {
  const int bucket = static_cast<int>(exchanged % buckets.size());
  const std::string layer = label(bucket);
  header = Header::make(detail::Operation::all_reduce, {layer, workers[0].step});
  header.worker = first_worker;
  header.sequence = exchanged;
  header.type = detail::Element::f32;
  header.count = buckets[at(bucket)].count;
  std::vector<std::byte*> blocks;
  for (const detail::Block& block : rest)
    blocks.push_back(reinterpret_cast<std::byte*>(gradient_of(block.item, bucket)));
  link->start(header, blocks, {result, reinterpret_cast<std::byte*>(result_of(bucket))});
}

std::string GradientExchange::Impl::describe_exchange() const {
  return fmt::format("{} at {}", context->layout().describe_rank(context->layout().rank), describe(header));
}

GradientExchange::GradientExchange(World& world, std::vector<Bucket> buckets, bool overlap,
                                   std::shared_ptr<ExchangeDevice> device)
    : impl_(std::make_unique<Impl>(world, world.state_->context, std::move(buckets), overlap, std::move(device))) {}

GradientExchange::~GradientExchange() = default;

void GradientExchange::begin(const Worker& worker, std::span<float> gradient, std::int64_t step) {
  impl_->begin(worker.local_index(), gradient, step);
}

void GradientExchange::ready(const Worker& worker, int bucket) {
  impl_->ready(worker.local_index(), bucket);
}

void GradientExchange::wait(const Worker& worker) {
  impl_->wait(worker.local_index());
}

std::span<float> GradientExchange::result() const {
  return {impl_->sums, static_cast<std::size_t>(impl_->length)};
}

double GradientExchange::waited_seconds(const Worker& worker) const {
  return impl_->workers[Impl::at(worker.local_index())].waited_s;
}

}  // namespace syncbn
