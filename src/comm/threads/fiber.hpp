#pragma once

#include <functional>
#include <memory>

namespace syncbn::detail {

/// A function with a stack of its own (Boost.Context), which runs on the thread that resumes it until it pauses. Knows
/// what C++ exceptions and the sanitizers must be told when stacks are switched.
class Fiber {
 public:
  /// `body` must not throw. Throws std::bad_alloc when there is no memory for a stack.
  explicit Fiber(std::function<void()> body);
  /// The body must have returned, or never have been resumed.
  ~Fiber();
  Fiber(Fiber&&) noexcept;
  Fiber& operator=(Fiber&&) noexcept;

  /// Goes on with the body until it pauses or returns. Always from one and the same thread.
  void resume();
  /// By the body: back to where resume() was called.
  void pause();
  bool done() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace syncbn::detail
