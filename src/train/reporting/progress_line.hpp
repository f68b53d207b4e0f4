#pragma once

#include <string>

#include "syncbn/train/progress.hpp"

namespace syncbn {

/// "1:02:03", "2:31", "0:07"; "?" when unknown (negative or not finite).
std::string format_duration(double seconds);

/// A complete line for files and pipes.
std::string plain_line(const ProgressState& state, bool color);

/// A line with a bar, at most `width` columns; details are dropped from the least important on when it is narrow.
/// Colour codes take no columns.
std::string bar_line(const ProgressState& state, int width, bool color);

/// Decides when a plain line is due: at the start and the end, and in between after 10 s or 10 % more (but not twice
/// within a second, so that a short training does not flood a log).
class PlainPacer {
 public:
  bool due(double now_s, const ProgressState& state);

 private:
  double last_s_ = 0, last_share_ = 0;
  bool started_ = false, finished_ = false;
};

}  // namespace syncbn
