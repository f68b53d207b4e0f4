#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace syncbn {

/// How far a training is: what one progress update shows.
struct ProgressState {
  std::int64_t done = 0, total = 0;  ///< steps
  double epoch = 0;
  double images_per_second = 0;
  double loss = 0, accuracy = 0;  ///< accuracy in 0..1; NaN = not known yet
  double eta_s = 0;
  double wait_statistics = 0;  ///< share of worker time spent waiting for statistics, 0..1
  double wait_gradients = 0;
};

/// A bar redrawn in place on a terminal (stderr); otherwise a plain line at most every 10 s or 10 %. NO_COLOR,
/// FORCE_COLOR and TERM=dumb are respected; the width follows the terminal. Silent when `enabled` is false (ranks other
/// than 0).
class Progress {
 public:
  explicit Progress(bool enabled);
  ~Progress();
  void update(const ProgressState& state);
  /// A full line above the bar.
  void print(const std::string& line);
  /// Removes the bar; its last state stays as a plain line.
  void finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace syncbn
