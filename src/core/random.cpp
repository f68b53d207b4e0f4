#include "syncbn/core/random.hpp"

#include <Random123/philox.h>

#include <cmath>
#include <numbers>
#include <numeric>
#include <utility>

namespace syncbn {

Random::Random(std::uint64_t seed, Purpose purpose, std::uint64_t a, std::uint64_t b)
    : key_{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)} {
  // 128 bits of counter: 32 for the position in the stream, 96 for its key. a and b are hashed by a Philox of their own
  // so that all their 64 bits count.
  const r123::Philox4x32::ctr_type ab{{static_cast<std::uint32_t>(a), static_cast<std::uint32_t>(a >> 32),
                                       static_cast<std::uint32_t>(b), static_cast<std::uint32_t>(b >> 32)}};
  const r123::Philox4x32::key_type purpose_key{{static_cast<std::uint32_t>(purpose), 0x5eedu}};
  const auto folded = r123::Philox4x32{}(ab, purpose_key);
  counter_ = {0, folded[0], folded[1], folded[2] ^ folded[3]};
}

std::uint32_t Random::next() {
  if (used_ == 4) {
    const r123::Philox4x32::ctr_type counter{{counter_[0], counter_[1], counter_[2], counter_[3]}};
    const r123::Philox4x32::key_type key{{key_[0], key_[1]}};
    const auto block = r123::Philox4x32{}(counter, key);
    for (std::size_t i = 0; i < 4; ++i) block_[i] = block[i];
    ++counter_[0];
    used_ = 0;
  }
  return block_[used_++];
}

std::uint64_t Random::below(std::uint64_t bound) {
  // Rejection keeps the result unbiased; at most one draw in two is discarded.
  const std::uint64_t limit = bound * (~std::uint64_t{0} / bound);
  for (;;) {
    const std::uint64_t high = next();
    const std::uint64_t value = (high << 32) | next();
    if (value < limit) return value % bound;
  }
}

float Random::uniform() {
  return static_cast<float>(next() >> 8) * 0x1.0p-24f;
}

double Random::normal() {
  if (has_spare_) {
    has_spare_ = false;
    return spare_;
  }
  const double u = (static_cast<double>(next()) + 0.5) * 0x1.0p-32;
  const double v = static_cast<double>(next()) * 0x1.0p-32;
  const double radius = std::sqrt(-2 * std::log(u));
  spare_ = radius * std::sin(2 * std::numbers::pi * v);
  has_spare_ = true;
  return radius * std::cos(2 * std::numbers::pi * v);
}

std::uint64_t hash_name(std::string_view name) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : name) {
    hash ^= static_cast<unsigned char>(c);
    hash *= 0x100000001b3u;
  }
  return hash;
}

std::vector<std::uint32_t> permutation(std::uint32_t n, std::uint64_t seed, Purpose purpose, std::uint64_t a) {
  std::vector<std::uint32_t> order(n);
  std::iota(order.begin(), order.end(), 0u);
  Random random(seed, purpose, a);
  for (std::uint32_t i = n; i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
  return order;
}

}  // namespace syncbn
