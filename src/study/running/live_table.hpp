#pragma once

#include <chrono>
#include <limits>
#include <string>
#include <vector>

namespace syncbn {

/// What a running study shows.
struct LiveState {
  struct Trial {
    std::string label;
    double share = 0;  ///< 0..1
    double epoch = 0;
    double loss = std::numeric_limits<double>::quiet_NaN(), accuracy = loss;  ///< NaN: not known yet
    double seconds = 0;
    int cores = 1;
  };
  int ended = 0, total = 0;
  int trouble = 0;  ///< ended without a result
  double elapsed_s = 0, eta_s = 0;
  std::vector<Trial> running;
};

/// One line for the study and one per running trial, at most `height` in all, each at most `width` columns.
std::vector<std::string> table_lines(const LiveState& state, int width, int height);

/// A table redrawn in place on a terminal (stderr); otherwise a plain line every 30 s.
class LiveTable {
 public:
  LiveTable();
  ~LiveTable() { clear(); }
  /// Whether it is time to show a new state.
  bool due() const;
  void update(const LiveState& state);
  /// A lasting line above the table.
  void print(const std::string& line);
  void clear();

 private:
  using Clock = std::chrono::steady_clock;
  void draw();

  bool in_place_ = false;
  int drawn_ = 0;  // lines on the screen
  Clock::time_point last_{};
  LiveState state_;
};

}  // namespace syncbn
