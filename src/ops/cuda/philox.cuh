#pragma once

// The random numbers of core/random.hpp on the device: the same words for the same key. Philox4x32-10, Salmon et al.
// 2011, "Parallel random numbers: as easy as 1, 2, 3".

#include "ops/cuda/runtime.cuh"
#include "syncbn/core/random.hpp"

namespace syncbn::ops::cuda {

class Philox {
 public:
  struct Block {
    std::uint32_t word[4];
  };

  __device__ Philox(std::uint64_t seed, Purpose purpose, std::uint64_t a, std::uint64_t b)
      : key_{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)} {
    const Block ab{{static_cast<std::uint32_t>(a), static_cast<std::uint32_t>(a >> 32), static_cast<std::uint32_t>(b),
                    static_cast<std::uint32_t>(b >> 32)}};
    folded_ = encrypt(ab, static_cast<std::uint32_t>(purpose), 0x5eedU);
  }
  /// Words 4 * position to 4 * position + 3 of the stream.
  __device__ Block block(std::uint32_t position) const {
    return encrypt({{position, folded_.word[0], folded_.word[1], folded_.word[2] ^ folded_.word[3]}}, key_[0], key_[1]);
  }
  /// Uniform in [0, 1), 24 bits.
  __device__ static float uniform(std::uint32_t word) { return static_cast<float>(word >> 8) * 0x1.0p-24f; }

 private:
  __device__ static Block encrypt(Block c, std::uint32_t key0, std::uint32_t key1) {
    for (int round = 0; round < 10; ++round) {
      const std::uint64_t left = std::uint64_t{0xD2511F53U} * c.word[0], right = std::uint64_t{0xCD9E8D57U} * c.word[2];
      c = {{static_cast<std::uint32_t>(right >> 32) ^ c.word[1] ^ key0, static_cast<std::uint32_t>(right),
            static_cast<std::uint32_t>(left >> 32) ^ c.word[3] ^ key1, static_cast<std::uint32_t>(left)}};
      key0 += 0x9E3779B9U;
      key1 += 0xBB67AE85U;
    }
    return c;
  }

  std::uint32_t key_[2];
  Block folded_;
};

}  // namespace syncbn::ops::cuda
