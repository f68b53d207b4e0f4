#include "comm/threads/waiting_clock.hpp"

#include <atomic>
#include <chrono>
#include <cstdint>

namespace syncbn::detail {

namespace {

constexpr std::int64_t kLongestGap_ns = 1'000'000'000;

std::int64_t steady_ns() {
  return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::atomic<std::int64_t> last_look_ns{steady_ns()};
std::atomic<std::int64_t> lost_ns{0};

}  // namespace

double waiting_clock_s() {
  const std::int64_t now = steady_ns();
  const std::int64_t gap = now - last_look_ns.exchange(now, std::memory_order_relaxed);
  if (gap > kLongestGap_ns) lost_ns.fetch_add(gap - kLongestGap_ns, std::memory_order_relaxed);
  return 1e-9 * static_cast<double>(now - lost_ns.load(std::memory_order_relaxed));
}

}  // namespace syncbn::detail
