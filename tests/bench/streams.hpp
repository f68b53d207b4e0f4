#pragma once

// The roofline of sweeps that move memory: what reading R arrays and writing W of them takes when nothing else is done.

#include <cstdint>

namespace syncbn::bench {

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define SYNCBN_BENCH_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define SYNCBN_BENCH_CLONES
#endif

/// Integers, since the compiler may add them in any order: the sum of `count` values of `a`, and of `b`.
std::uint32_t read_one(const std::uint32_t* a, std::int64_t count);
std::uint32_t read_two(const std::uint32_t* a, const std::uint32_t* b, std::int64_t count);
void copy(const std::uint32_t* a, std::uint32_t* to, std::int64_t count);
void triad(const std::uint32_t* a, const std::uint32_t* b, std::uint32_t* to, std::int64_t count);
void triad_and_copy(const std::uint32_t* a, const std::uint32_t* b, std::uint32_t* to, std::uint32_t* copy,
                    std::int64_t count);

}  // namespace syncbn::bench
