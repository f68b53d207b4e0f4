#pragma once

#include <functional>
#include <memory>

namespace syncbn::detail {

/// A function with a stack of its own (Boost.Context), which runs on the thread that resumes it until it pauses. Tells
/// the C++ runtime and the sanitizers about each switch of stacks.
class Fiber {
 public:
  /// `body` must not throw. Throws std::bad_alloc when there is no memory for a stack.
  explicit Fiber(std::function<void()> body);
  /// The body must have returned, or never have been started.
  ~Fiber();
  Fiber(Fiber&&) noexcept;
  Fiber& operator=(Fiber&&) noexcept;

  /// Continues the body until it pauses or returns. Always called from the same thread.
  void resume();
  /// Called by the body: returns to where resume() was called.
  void pause();
  bool done() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace syncbn::detail
