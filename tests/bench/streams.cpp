#include "bench/streams.hpp"

namespace syncbn::bench {

namespace {

/// Calls body(i) for 0 <= i < count, with what is written at `to...` fetched ahead as the kernels do.
template <class Body, class... To>
inline __attribute__((always_inline)) void for_lines(std::int64_t count, Body body, To*... to) {
  constexpr std::int64_t kLine = 16, kAhead = 256;
  std::int64_t i = 0;
  for (; i + kLine <= count; i += kLine) {
    (__builtin_prefetch(to + i + kAhead, 1), ...);
    for (std::int64_t k = 0; k < kLine; ++k) body(i + k);
  }
  for (; i < count; ++i) body(i);
}

}  // namespace

SYNCBN_BENCH_CLONES
std::uint32_t read_one(const std::uint32_t* a, std::int64_t count) {
  std::uint32_t sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += a[i];
  return sum;
}

SYNCBN_BENCH_CLONES
std::uint32_t read_two(const std::uint32_t* a, const std::uint32_t* b, std::int64_t count) {
  std::uint32_t sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += a[i] ^ b[i];
  return sum;
}

SYNCBN_BENCH_CLONES
void copy(const std::uint32_t* __restrict a, std::uint32_t* __restrict to, std::int64_t count) {
  for_lines(
      count, [=](std::int64_t i) { to[i] = a[i] + 1; }, to);
}

SYNCBN_BENCH_CLONES
void triad(const std::uint32_t* __restrict a, const std::uint32_t* __restrict b, std::uint32_t* __restrict to,
           std::int64_t count) {
  for_lines(
      count, [=](std::int64_t i) { to[i] = a[i] + b[i]; }, to);
}

SYNCBN_BENCH_CLONES
void triad_and_copy(const std::uint32_t* __restrict a, const std::uint32_t* __restrict b, std::uint32_t* __restrict to,
                    std::uint32_t* __restrict copy, std::int64_t count) {
  for_lines(
      count,
      [=](std::int64_t i) {
        to[i] = a[i] + b[i];
        copy[i] = b[i];
      },
      to, copy);
}

}  // namespace syncbn::bench
