#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

namespace syncbn::detail {

/// Tells the CPU that this is a spin loop.
inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// The compute threads of a rank and the workers on them. Consecutive workers share a thread; if a thread has several
/// workers, each is a fiber, and a worker that waits for others lets the next one of its thread run. Nothing is
/// preempted: a switch costs about ten nanoseconds, so many small workers are as fast as a few large ones. A thread
/// whose workers all wait spins for a moment if there are enough cores, then yields, then sleeps.
class Crew {
 public:
  Crew(int threads, int workers, bool may_spin);
  ~Crew();

  int threads() const { return static_cast<int>(threads_.size()); }

  /// Runs body(worker) for all workers; returns when all have ended. Meanwhile `watch` is called now and then on the
  /// caller's thread, if the workers have threads of their own (a single worker runs on the caller's). `body` and
  /// `watch` must not throw. Throws std::system_error or std::bad_alloc, before any body has run, if threads or stacks
  /// cannot be created.
  void run(const std::function<void(int worker)>& body, const std::function<void()>& watch);

  /// Called by a worker that cannot go on yet: lets others run and returns after a while, so that the worker checks
  /// again. `nap`: how long the thread may sleep before that, if nothing happens on this rank (see notify()).
  void pause(int worker, std::chrono::microseconds nap);
  /// Whether this worker's thread has nothing to do but to check again at once, a few hundred times.
  bool may_look_again(int worker) const;
  /// Called by a worker that has waited and can go on.
  void resumed(int worker);
  /// Wakes sleeping threads, because something that a waiting worker checks has changed.
  void notify();

  /// A worker that has kept others of its thread from running for longer than the limit, and one of those; -1 if there
  /// is none. To be called from `watch`.
  struct Hog {
    int worker = -1;
    int neighbour = -1;
  };
  Hog hog(double longer_than_s) const;

 private:
  using Clock = std::chrono::steady_clock;
  class Thread;

  Thread& thread_of(int worker) const;
  void sleep(std::uint32_t seen, std::chrono::microseconds nap);

  const bool may_spin_;
  std::vector<std::unique_ptr<Thread>> threads_;
  std::vector<int> thread_of_;
  std::atomic<std::uint32_t> events_{0};
  std::atomic<int> sleepers_{0};
  std::mutex mutex_;
  std::condition_variable changed_;
};

}  // namespace syncbn::detail
