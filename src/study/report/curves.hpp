#pragma once

#include <string>
#include <vector>

#include "study/results.hpp"

namespace syncbn {

/// How the trials of one point learn: means over its seeds.
struct Curve {
  int point = 0;
  std::vector<double> epochs, errors, halves;  ///< test error in percent and half of its 95 % interval (or NaN)
  std::vector<double> train_epochs, losses;    ///< training loss
  double train_error = 0;                      ///< over the last lines of the log, percent; NaN: not known
};

/// One per point that has trials with a result, from their metrics.jsonl; thinned to what a screen can show.
std::vector<Curve> read_curves(const Results& results);

}  // namespace syncbn
