// Without libFuzzer: the seeds, and fixed changes of them.

#include <algorithm>
#include <cstdio>
#include <random>

#include "fuzz/target.hpp"

namespace {

constexpr int kChanges = 2000;

/// Up to four times: changes a byte, or removes, repeats or overwrites a stretch.
void change(std::string& input, std::mt19937& random) {
  const auto below = [&random](std::size_t n) {
    return static_cast<std::size_t>(random()) % std::max<std::size_t>(1, n);
  };
  for (std::size_t times = 1 + below(4); times > 0 && !input.empty(); --times) {
    const std::size_t at = below(input.size());
    const std::string part = input.substr(below(input.size()), 1 + below(16));
    switch (below(5)) {
      case 0:
        input[at] = static_cast<char>(random());
        break;
      case 1:
        input[at] = static_cast<char>(input[at] ^ 1 << below(8));
        break;
      case 2:
        input.erase(at, part.size());
        break;
      case 3:
        input.insert(at, part);
        break;
      default:
        input.replace(at, part.size(), std::string(part.size(), random() % 2 ? '\xff' : '\0'));
    }
  }
}

void replay(const std::string& input) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
}

}  // namespace

int main(int argc, char** argv) {
  LLVMFuzzerInitialize(&argc, &argv);
  const std::vector<std::string> seeds = syncbn::fuzz::seeds();
  for (const std::string& seed : seeds) replay(seed);
  std::mt19937 random;
  for (int i = 0; i < kChanges; ++i) {
    std::string input = seeds[static_cast<std::size_t>(i) % seeds.size()];
    change(input, random);
    replay(input);
  }
  std::printf("%zu seeds, %d changes of them\n", seeds.size(), kChanges);
}
