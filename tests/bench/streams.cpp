#include "bench/streams.hpp"

namespace syncbn::bench {

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
  for (std::int64_t i = 0; i < count; ++i) to[i] = a[i] + 1;
}

SYNCBN_BENCH_CLONES
void triad(const std::uint32_t* __restrict a, const std::uint32_t* __restrict b, std::uint32_t* __restrict to,
           std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = a[i] + b[i];
}

SYNCBN_BENCH_CLONES
void triad_and_copy(const std::uint32_t* __restrict a, const std::uint32_t* __restrict b, std::uint32_t* __restrict to,
                    std::uint32_t* __restrict copy, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    to[i] = a[i] + b[i];
    copy[i] = b[i];
  }
}

}  // namespace syncbn::bench
