#pragma once

// How benchmarks here measure: alternatives take turns in short blocks, so that whatever else the machine does falls on
// all of them alike, and every ratio is the median over the blocks of ratios within one block.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace syncbn::bench {

inline double wall_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

inline double seconds_of(clockid_t clock) {
  timespec t{};
  clock_gettime(clock, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

/// Of this thread alone, or of all threads of this process: not counted is the time in which others have the core.
inline double cpu_seconds() {
  return seconds_of(CLOCK_THREAD_CPUTIME_ID);
}
inline double process_cpu_seconds() {
  return seconds_of(CLOCK_PROCESS_CPUTIME_ID);
}

inline double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

struct Blocks {
  int count = 7;
  double seconds = 0.01;  ///< of one alternative in one block, about
  double (*clock)() = cpu_seconds;
};

/// seconds[alternative][block] of one call.
class Paired {
 public:
  Paired(const std::vector<std::function<void()>>& alternatives, const Blocks& blocks) : seconds_(alternatives.size()) {
    std::vector<int> calls;
    for (const auto& call : alternatives) {
      call();  // warms up
      const double begin = blocks.clock();
      call();
      calls.push_back(std::max(1, static_cast<int>(blocks.seconds / std::max(1e-9, blocks.clock() - begin))));
    }
    for (int b = 0; b < blocks.count; ++b) {
      for (std::size_t a = 0; a < alternatives.size(); ++a) {
        alternatives[a]();  // brings its data back into the caches
        const double begin = blocks.clock();
        for (int i = 0; i < calls[a]; ++i) alternatives[a]();
        seconds_[a].push_back((blocks.clock() - begin) / calls[a]);
      }
    }
  }

  double seconds(std::size_t alternative) const { return median(seconds_[alternative]); }
  /// How many times as fast `a` is as `b`.
  double speed(std::size_t a, std::size_t b) const {
    std::vector<double> ratios;
    for (std::size_t i = 0; i < seconds_[a].size(); ++i) ratios.push_back(seconds_[b][i] / seconds_[a][i]);
    return median(ratios);
  }

 private:
  std::vector<std::vector<double>> seconds_;
};

/// The program's arguments: `--quick` (short blocks), `--validate` (check results, time nothing), and names of the
/// parts to run (default: all).
struct Arguments {
  bool quick = false, validate = false;
  std::vector<std::string> parts;

  Arguments(int argc, char** argv) {
    for (const std::string& argument : std::vector<std::string>(argv + 1, argv + argc)) {
      if (argument == "--quick") {
        quick = true;
      } else if (argument == "--validate") {
        validate = true;
      } else if (argument.starts_with("-")) {
        std::fprintf(stderr, "unknown option %s; there are --quick and --validate\n", argument.c_str());
        std::exit(2);
      } else {
        parts.push_back(argument);
      }
    }
  }
  bool wants(const std::string& part) const {
    return parts.empty() || std::find(parts.begin(), parts.end(), part) != parts.end();
  }
};

}  // namespace syncbn::bench
