#pragma once

#include <string>
#include <vector>

#include "study/results.hpp"
#include "study/statistics.hpp"

namespace syncbn {

/// Trials of one point of a study, on an axis.
struct SeriesPoint {
  int point = 0;
  double x = 0;
  BySeed errors;    ///< percent, of the seeds that ended with a result
  int without = 0;  ///< trials that diverged or failed
  Interval interval() const { return mean_interval(values_of(errors)); }
};

struct Series {
  std::string name;                 ///< empty: the study varies nothing but the axis
  std::vector<SeriesPoint> points;  ///< ascending x
};

/// Error against one thing that the study varies; the rest of what it varies makes the series.
struct ErrorChart {
  std::string title;  ///< "samples per worker"
  std::string unit;   ///< "images a worker", behind a number in a sentence; or "norm.eps", before it
  bool unit_first = false;
  std::vector<Series> series;
  std::vector<std::string> categories;  ///< of an axis of words instead of numbers: x is an index
  /// "4 images a worker", "1 image a worker", "norm.eps 0.1", "model.activation relu"
  std::string at(double x) const;
};

/// One per axis on which the study has at least two numbers, the most telling first of those that have all its points;
/// without such a one, one per key that takes words, if the study varies something else besides. Trials of a
/// learning-rate search are left out.
std::vector<ErrorChart> error_charts(const Results& results);

/// A study without an axis: its points one below the other, as one chart of series of one point each.
ErrorChart points_chart(const Results& results);

/// The same as one series over an axis of its points' labels, to be drawn.
ErrorChart variants_chart(const Results& results);

/// "6.1"; "0.04": one digit more than needed to be honest about a half width.
std::string points_text(double value, double half);

}  // namespace syncbn
