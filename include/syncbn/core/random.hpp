#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace syncbn {

/// The purpose of a stream of random numbers. Part of the key, so that streams never overlap.
enum class Purpose : std::uint32_t {
  shuffle = 1,
  augment = 2,
  dropout = 3,
  init = 4,
  builtin_data = 5,
  test = 6,
  probe = 7
};

/// Counter-based random numbers (Philox4x32-10; Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
/// The stream is a pure function of (seed, purpose, a, b): never of rank, thread or call history. Examples:
/// shuffle (seed, epoch), augmentation (seed, epoch, sample), dropout (seed, step, of layer and sample),
/// initialization (seed, hash(parameter name)).
class Random {
 public:
  Random(std::uint64_t seed, Purpose purpose, std::uint64_t a = 0, std::uint64_t b = 0);

  std::uint32_t next();                      ///< 32 uniform bits
  std::uint64_t below(std::uint64_t bound);  ///< uniform integer in [0, bound), unbiased; bound >= 1
  float uniform();                           ///< uniform in [0, 1), 24 bits
  double normal();                           ///< standard normal (Box-Muller)

 private:
  std::array<std::uint32_t, 2> key_;
  std::array<std::uint32_t, 4> counter_;
  std::array<std::uint32_t, 4> block_{};
  int used_ = 4;
  double spare_ = 0;
  bool has_spare_ = false;
};

/// 64-bit FNV-1a hash, which turns names into stream keys.
std::uint64_t hash_name(std::string_view name);

/// A permutation of 0..n-1 that depends on (seed, purpose, a) alone (Fisher-Yates).
std::vector<std::uint32_t> permutation(std::uint32_t n, std::uint64_t seed, Purpose purpose, std::uint64_t a);

}  // namespace syncbn
