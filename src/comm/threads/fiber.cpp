#include "comm/threads/fiber.hpp"

#include <cxxabi.h>

#include <boost/context/fiber.hpp>
#include <boost/context/protected_fixedsize_stack.hpp>
#include <cstddef>
#include <cstring>
#include <utility>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace syncbn::detail {

namespace {

namespace context = boost::context;

// Address space only; memory is used as the stack grows. A guard page marks its end.
constexpr std::size_t kStackBytes = std::size_t{8} << 20;  // the size of a thread's stack, which libraries rely on

/// Saves and restores the exceptions being handled: they belong to a stack, but the C++ runtime keeps them per thread.
class HandledExceptions {
 public:
  void swap() {
    State mine;
    std::memcpy(&mine, abi::__cxa_get_globals(), sizeof mine);
    std::memcpy(abi::__cxa_get_globals(), &other_, sizeof other_);
    other_ = mine;
  }

 private:
  struct State {  // __cxa_eh_globals of the Itanium C++ ABI
    void* caught;
    unsigned int uncaught;
  };
  State other_{};
};

/// Tells AddressSanitizer which stack is in use.
class StackNotes {
 public:
#if defined(__SANITIZE_ADDRESS__)
  void leave_outside(const context::stack_context& stack) {
    __sanitizer_start_switch_fiber(&fake_outside_, static_cast<char*>(stack.sp) - stack.size, stack.size);
  }
  void enter_outside() {
    __sanitizer_finish_switch_fiber(fake_outside_, nullptr, nullptr);
  }
  void leave_inside(bool for_good) {
    __sanitizer_start_switch_fiber(for_good ? nullptr : &fake_inside_, outside_, outside_bytes_);
  }
  void enter_inside() {
    __sanitizer_finish_switch_fiber(fake_inside_, &outside_, &outside_bytes_);
  }

 private:
  void* fake_outside_ = nullptr;
  void* fake_inside_ = nullptr;
  const void* outside_ = nullptr;
  std::size_t outside_bytes_ = 0;
#else
  void leave_outside(const context::stack_context&) {}
  void enter_outside() {}
  void leave_inside(bool) {}
  void enter_inside() {}
#endif
};

}  // namespace

struct Fiber::Impl {
  explicit Impl(std::function<void()> function) : body(std::move(function)) {
    context::protected_fixedsize_stack allocator(kStackBytes);
    stack = allocator.allocate();
    inside = context::fiber(std::allocator_arg, context::preallocated(stack.sp, stack.size, stack), allocator,
                            [this](context::fiber&& caller) {
                              notes.enter_inside();
                              outside = std::move(caller);
                              body();
                              finished = true;
                              notes.leave_inside(true);
                              return std::move(outside);
                            });
  }

  std::function<void()> body;
  bool finished = false;
  context::stack_context stack;
  context::fiber inside, outside;
  HandledExceptions exceptions;
  StackNotes notes;
#if defined(__SANITIZE_THREAD__)
  void* thread_notes = __tsan_create_fiber(0);
  ~Impl() {
    __tsan_destroy_fiber(thread_notes);
  }
#endif
};

Fiber::Fiber(std::function<void()> body) : impl_(std::make_unique<Impl>(std::move(body))) {}
Fiber::~Fiber() = default;
Fiber::Fiber(Fiber&&) noexcept = default;
Fiber& Fiber::operator=(Fiber&&) noexcept = default;

bool Fiber::done() const {
  return impl_->finished;
}

void Fiber::resume() {
  Impl& f = *impl_;
  f.exceptions.swap();
  f.notes.leave_outside(f.stack);
#if defined(__SANITIZE_THREAD__)
  // ThreadSanitizer counts the calls of each stack as they begin and end, so no call may begin on one and end on
  // another.
  void* outside = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(f.thread_notes, 0);
#endif
  f.inside = std::move(f.inside).resume();
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(outside, 0);
#endif
  f.notes.enter_outside();
  f.exceptions.swap();
}

void Fiber::pause() {
  Impl& f = *impl_;
  f.notes.leave_inside(false);
  f.outside = std::move(f.outside).resume();
  f.notes.enter_inside();
}

}  // namespace syncbn::detail
