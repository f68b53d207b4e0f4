#include "comm/threads/crew.hpp"

#include <sched.h>

#include <algorithm>
#include <optional>
#include <thread>

#include "comm/threads/fiber.hpp"
#include "comm/threads/waiting_clock.hpp"

namespace syncbn::detail {

namespace {

constexpr auto kSpinFor = std::chrono::microseconds(20);
constexpr auto kYieldFor = std::chrono::milliseconds(1);
constexpr auto kWatchEvery = std::chrono::milliseconds(100);

/// A set of threads whose end can be awaited with a time limit.
class ThreadPool {
 public:
  ~ThreadPool() {
    open_ = true;
    open_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
  /// Adds a thread, which begins when all have been added.
  void add(std::function<void()> work) {
    threads_.emplace_back([this, work = std::move(work)] {
      open_.wait(false);
      if (cancelled_) return;
      work();
      {
        std::lock_guard lock(mutex_);
        ++done_;
      }
      changed_.notify_all();
    });
  }
  void cancel() { cancelled_ = true; }
  void begin() {
    open_ = true;
    open_.notify_all();
  }
  /// Returns true when all threads are done.
  bool wait_for(std::chrono::milliseconds limit) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, limit, [this] { return done_ == threads_.size(); });
  }

 private:
  std::vector<std::thread> threads_;
  std::atomic<bool> open_{false};
  std::atomic<bool> cancelled_{false};
  std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t done_ = 0;
};

}  // namespace

/// One compute thread and its consecutive workers.
class Crew::Thread {
 public:
  Thread(Crew& crew, int first, int count) : crew_(crew), first_(first), count_(count) {}

  int first() const { return first_; }
  int count() const { return count_; }

  /// Creates the stacks; a worker that has a thread of its own needs none.
  void prepare(const std::function<void(int)>& body) {
    fibers_.clear();
    body_ = &body;
    live_ = count_;
    if (count_ == 1) return;
    for (int i = 0; i < count_; ++i) fibers_.emplace_back([this, i] { (*body_)(first_ + i); });
  }

  void run() {
    if (count_ == 1) {
      (*body_)(first_);
      live_ = 0;
      return;
    }
    // Alternate the direction: the worker that ran last finds most of its data in the cache.
    for (bool forth = true; live_ > 0; forth = !forth) {
      begin_round();
      for (int i = 0; i < count_; ++i) resume(forth ? i : count_ - 1 - i);
      end_round();
    }
  }

  void pause(int worker, std::chrono::microseconds nap) {
    nap_ = std::min(nap_, nap);
    if (count_ > 1) return fibers_[worker - first_].pause();
    end_round();
    begin_round();
  }
  void resumed() { active_ = true; }

  /// How often any worker has been resumed, and which one is running.
  std::uint64_t switches() const { return switches_.load(std::memory_order_relaxed); }
  int running() const { return running_.load(std::memory_order_relaxed); }
  int live() const { return live_.load(std::memory_order_relaxed); }

  // Used by the watching thread.
  std::uint64_t seen_switches = 0;
  double seen_at_s = waiting_clock_s();

 private:
  void resume(int i) {
    Fiber& fiber = fibers_[i];
    if (fiber.done()) return;
    running_.store(first_ + i, std::memory_order_relaxed);
    switches_.fetch_add(1, std::memory_order_relaxed);
    fiber.resume();
    if (!fiber.done()) return;
    --live_;
    active_ = true;
  }

  void begin_round() {
    seen_ = crew_.events_.load();
    active_ = false;
    nap_ = std::chrono::microseconds::max();
  }

  /// Spins, yields or sleeps if no worker could go on.
  void end_round() {
    if (active_ || live_ == 0) {
      idle_since_.reset();
      return;
    }
    const Clock::time_point now = Clock::now();
    if (!idle_since_) idle_since_ = now;
    if (crew_.may_spin_ && now - *idle_since_ < kSpinFor) return relax();
    if (now - *idle_since_ < kYieldFor) {
      sched_yield();
      return;
    }
    crew_.sleep(seen_, nap_);
  }

  Crew& crew_;
  const int first_, count_;
  const std::function<void(int)>* body_ = nullptr;
  std::vector<Fiber> fibers_;
  std::atomic<int> live_{0}, running_{-1};
  std::atomic<std::uint64_t> switches_{0};
  std::uint32_t seen_ = 0;
  bool active_ = true;
  std::chrono::microseconds nap_ = std::chrono::microseconds::max();
  std::optional<Clock::time_point> idle_since_;
};

Crew::Crew(int threads, int workers, bool may_spin) : may_spin_(may_spin) {
  const int count = std::min(threads, workers);
  for (int t = 0; t < count; ++t) {
    const int first = t * workers / count, last = (t + 1) * workers / count;
    threads_.push_back(std::make_unique<Thread>(*this, first, last - first));
    thread_of_.insert(thread_of_.end(), static_cast<std::size_t>(last - first), t);
  }
}

Crew::~Crew() = default;

Crew::Thread& Crew::thread_of(int worker) const {
  return *threads_[thread_of_[worker]];
}

void Crew::run(const std::function<void(int)>& body, const std::function<void()>& watch) {
  for (auto& thread : threads_) {
    thread->prepare(body);
    thread->seen_at_s = waiting_clock_s();
  }
  if (thread_of_.size() == 1) return threads_[0]->run();
  ThreadPool pool;
  try {
    for (auto& thread : threads_) pool.add([&t = *thread] { t.run(); });
  } catch (...) {
    pool.cancel();
    throw;
  }
  pool.begin();
  while (!pool.wait_for(kWatchEvery)) {
    for (auto& thread : threads_) {
      if (thread->switches() == thread->seen_switches) continue;
      thread->seen_switches = thread->switches();
      thread->seen_at_s = waiting_clock_s();
    }
    watch();
  }
}

void Crew::pause(int worker, std::chrono::microseconds nap) {
  thread_of(worker).pause(worker, nap);
}

bool Crew::may_look_again(int worker) const {
  return may_spin_ && thread_of(worker).count() == 1;
}

void Crew::resumed(int worker) {
  thread_of(worker).resumed();
}

void Crew::notify() {
  events_.fetch_add(1);
  if (sleepers_.load() == 0) return;
  { std::lock_guard lock(mutex_); }
  changed_.notify_all();
}

void Crew::sleep(std::uint32_t seen, std::chrono::microseconds nap) {
  std::unique_lock lock(mutex_);
  sleepers_.fetch_add(1);
  changed_.wait_for(lock, nap, [&] { return events_.load() != seen; });
  sleepers_.fetch_sub(1);
}

Crew::Hog Crew::hog(double longer_than_s) const {
  for (const auto& thread : threads_) {
    if (thread->count() == 1 || thread->live() < 2) continue;
    if (waiting_clock_s() - thread->seen_at_s < longer_than_s) continue;
    const int worker = thread->running();
    return {worker, worker == thread->first() ? worker + 1 : worker - 1};
  }
  return {};
}

}  // namespace syncbn::detail
