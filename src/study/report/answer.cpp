#include "study/report/answer.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <map>
#include <optional>
#include <set>

namespace syncbn {
namespace {

/// Series, variants or places beyond these are left to charts and table, and the answer says so.
constexpr std::size_t kMaxCompared = 12;

std::string plus_minus(const Interval& d) {
  return fmt::format("{} ± {} points", points_text(std::abs(d.mean), d.half), points_text(d.half, d.half));
}

/// "(+0.2 ± 0.9 points)": of a difference that may be none.
std::string in_brackets(const Interval& d) {
  const std::string size = points_text(std::abs(d.mean), d.half);
  const bool zero = size.find_first_of("123456789") == std::string::npos;
  const std::string mean = (zero ? "" : d.mean < 0 ? "-" : "+") + size;
  if (!d.known()) return fmt::format("({} points, without an interval)", mean);
  return fmt::format("({} ± {} points)", mean, points_text(d.half, d.half));
}

Interval difference(const SeriesPoint& a, const SeriesPoint& b, int tests = 1) {
  return difference_interval(a.errors, b.errors, tests);
}

std::string left_out(std::size_t count, const char* what) {
  if (count <= kMaxCompared) return "";
  return fmt::format("{} more {} are left to the charts and the table.", count - kMaxCompared, what);
}

/// "a; b; c; d; 3 more"
std::string listed(const std::vector<std::string>& names) {
  constexpr std::size_t kMaxListed = 4;
  const std::size_t count = std::min(names.size(), kMaxListed);
  std::string list =
      fmt::format("{}", fmt::join(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(count), "; "));
  if (names.size() > count) list += fmt::format("; {} more", names.size() - count);
  return list;
}

void add_once(std::vector<std::string>& names, const std::string& name) {
  if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
}

/// Points with at least two results, so that something can be said.
std::vector<const SeriesPoint*> usable(const Series& series) {
  std::vector<const SeriesPoint*> points;
  for (const SeriesPoint& p : series.points) {
    if (p.errors.size() >= 2) points.push_back(&p);
  }
  return points;
}

/// How the error of one series changes along the axis, against its right end.
std::string along(const ErrorChart& chart, const Series& series) {
  const auto points = usable(series);
  if (points.size() < 2) return "";
  const std::string who = series.name.empty() ? "" : series.name + ": ";
  const SeriesPoint& end = *points.back();
  const SeriesPoint& start = *points.front();
  // The longest run from the left whose every point is worse than the right end.
  std::size_t worse = 0;
  while (worse + 1 < points.size()) {
    const Interval d = difference(*points[worse], end);
    if (!d.excludes_zero() || d.mean < 0) break;
    ++worse;
  }
  const std::string from = chart.at(end.x);
  if (worse > 0) {
    const SeriesPoint& edge = *points[worse - 1];
    std::string text = fmt::format("{}at {}{} the error is higher than at {}, by {}", who, chart.at(edge.x),
                                   worse > 1 ? " and below" : "", from, plus_minus(difference(edge, end)));
    if (worse > 1) text += fmt::format(" there and {} at {}", plus_minus(difference(start, end)), chart.at(start.x));
    return text + ".";
  }
  const Interval d = difference(start, end);
  if (d.excludes_zero()) {
    return fmt::format("{}the error at {} is lower than at {}, by {}.", who, chart.at(start.x), from, plus_minus(d));
  }
  const std::string alike =
      fmt::format("no difference from {} can be shown at {} {}", from, chart.at(start.x), in_brackets(d));
  // The ends are alike; what lies between is picked from several places, which needs wider intervals.
  const int places = static_cast<int>(points.size()) - 1;
  const SeriesPoint* most = nullptr;
  Interval middle;
  for (const SeriesPoint* p : points) {
    const Interval here = p == &end ? Interval{} : difference(*p, end, places);
    if (!here.excludes_zero()) continue;
    if (most != nullptr && std::abs(here.mean) / here.half <= std::abs(middle.mean) / middle.half) continue;
    most = p;
    middle = here;
  }
  if (most == nullptr) return fmt::format("{}{}.", who, alike);
  return fmt::format("{}the error at {} is {} than at {}, by {} (wider, as picked from {} places); {}.", who,
                     chart.at(most->x), middle.mean > 0 ? "higher" : "lower", from, plus_minus(middle), places, alike);
}

struct Entry {
  const Series* series;
  const SeriesPoint* point;
};

/// The series with results at one place of the axis, in the author's order.
std::vector<Entry> entries_at(const ErrorChart& chart, double x) {
  std::vector<Entry> entries;
  for (const Series& s : chart.series) {
    for (const SeriesPoint& p : s.points) {
      if (p.x == x && p.errors.size() >= 2) entries.push_back({&s, &p});
    }
  }
  return entries;
}

/// Compares what there is at one place with the first of it: a reference that was named before there were results.
std::string across(const std::string& place, std::vector<Entry> entries) {
  if (entries.size() < 2) return "";
  const std::string rest = left_out(entries.size() - 1, "variants");
  if (!rest.empty()) entries.resize(kMaxCompared + 1);
  const Entry first = entries.front();
  std::map<std::string, std::string> lists;  // "less", "more", "no"
  for (std::size_t i = 1; i < entries.size(); ++i) {
    const Interval d = difference(*entries[i].point, *first.point);
    std::string& list = lists[!d.excludes_zero() ? "no" : d.mean < 0 ? "less" : "more"];
    list += (list.empty() ? "" : ", ") + entries[i].series->name;
    list += d.excludes_zero() ? fmt::format(" by {}", plus_minus(d)) : " " + in_brackets(d);
  }
  std::vector<std::string> parts;
  for (const char* way : {"less", "more"}) {
    if (lists.contains(way)) parts.push_back(fmt::format("{} error than {}: {}", way, first.series->name, lists[way]));
  }
  if (lists.contains("no")) {
    parts.push_back(fmt::format("no difference from {} can be shown: {}", first.series->name, lists["no"]));
  }
  return place + fmt::format("{}.{}{}", fmt::join(parts, "; "), rest.empty() ? "" : " ", rest);
}

/// Places of the axis at which at least two series have results, ascending.
std::vector<double> common_places(const ErrorChart& chart) {
  std::set<double> all;
  for (const Series& s : chart.series) {
    for (const SeriesPoint& p : s.points) all.insert(p.x);
  }
  std::vector<double> places;
  for (const double x : all) {
    if (entries_at(chart, x).size() >= 2) places.push_back(x);
  }
  return places;
}

void append(std::vector<std::string>& lines, std::string line) {
  if (line.empty()) return;
  const std::size_t first_word = line.find(' ');
  const bool names_a_key = line.find('=') < first_word;
  if (!names_a_key) line[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(line[0])));
  lines.push_back(std::move(line));
}

/// Trials without a result: their number is that of all trainings, as everywhere.
std::string trouble(const Results& results) {
  const Tally all = tally(results);
  Tally search;
  std::vector<std::string> where;
  for (const TrialRow& row : results.rows) {
    if (!row.outcome) continue;
    if (row.search) search.add(row.hash, &*row.outcome);
    if (row.outcome->status != Outcome::Status::done) add_once(where, row.label);
  }
  std::vector<std::string> parts;
  const auto add = [&](int count, int of_search, const char* what) {
    if (count == 0) return;
    parts.push_back(fmt::format("{} of {} trials {}", count, all.ended, what));
    if (of_search > 0) parts.back() += fmt::format(", {} of them of the search,", of_search);
  };
  add(all.diverged, search.diverged, "diverged");
  add(all.failed, search.failed, "failed");
  if (parts.empty()) return "";
  return fmt::format("{} and count in no mean: {}.", fmt::join(parts, " and "), listed(where));
}

/// Variants whose search for a learning rate should have looked further.
std::vector<std::string> search_lines(const Results& results) {
  struct Search {
    std::string label;
    std::vector<double> factors;
    bool ended = true, any_result = false;
    std::optional<double> chosen;
  };
  std::map<int, Search> searches;
  for (const TrialRow& row : results.rows) {
    Search& s = searches[row.point];
    s.label = row.label;
    if (!row.search) {
      s.chosen = row.lr_factor;
      continue;
    }
    s.factors.push_back(row.lr_factor);
    s.ended = s.ended && row.outcome;
    s.any_result = s.any_result || (row.outcome && !std::isnan(row.outcome->error()));
  }
  std::vector<std::string> none, smallest, largest;
  for (const auto& [point, s] : searches) {
    if (s.factors.empty() || !s.ended || !s.chosen) continue;
    const auto [low, high] = std::minmax_element(s.factors.begin(), s.factors.end());
    if (!s.any_result) {
      none.push_back(s.label);
    } else if (*s.chosen == *low) {
      smallest.push_back(s.label);
    } else if (*s.chosen == *high) {
      largest.push_back(s.label);
    }
  }
  std::vector<std::string> lines;
  const auto add = [&](const std::vector<std::string>& labels, const char* what) {
    if (!labels.empty()) lines.push_back(fmt::format("{}: {}.", listed(labels), what));
  };
  add(none,
      "no learning rate tried gave a result, and the smallest was taken; add smaller ones to learning_rate.search");
  add(smallest, "the best learning rate tried is the smallest; widen learning_rate.search");
  add(largest, "the best learning rate tried is the largest; widen learning_rate.search");
  return lines;
}

}  // namespace

std::vector<std::string> answer(const ErrorChart& chart) {
  std::vector<std::string> lines;
  const bool words = !chart.categories.empty();
  if (!words) {
    std::vector<std::string> changes;
    for (const Series& s : chart.series) {
      if (const std::string line = along(chart, s); !line.empty()) changes.push_back(line);
    }
    for (std::size_t i = 0; i < std::min(changes.size(), kMaxCompared); ++i) append(lines, changes[i]);
    append(lines, left_out(changes.size(), "series"));
  }
  const std::vector<double> places = common_places(chart);
  const auto compare = [&](double x) {
    append(lines, across(chart.unit.empty() ? "" : fmt::format("At {}: ", chart.at(x)), entries_at(chart, x)));
  };
  if (words) {
    for (std::size_t i = 0; i < std::min(places.size(), kMaxCompared); ++i) compare(places[i]);
    append(lines, left_out(places.size(), "places"));
    return lines;
  }
  if (!places.empty()) compare(places.front());
  if (places.size() > 1) compare(places.back());
  return lines;
}

std::vector<std::string> answer(const Results& results) {
  std::vector<std::string> lines;
  const std::vector<ErrorChart> charts = error_charts(results);
  if (charts.empty()) {
    ErrorChart all = points_chart(results);
    for (Series& s : all.series) s.points.front().x = 0;  // all at one place
    lines = answer(all);
  } else {
    lines = answer(charts.front());
  }
  std::size_t most = 0;  // results of a point
  for (const Series& s : points_chart(results).series) most = std::max(most, s.points.front().errors.size());
  const Tally all = tally(results);
  if (most == 0 && all.ended == all.trials) {
    lines = {"No trial has a result."};
  } else if (most < 2) {
    lines = {
        "Every point has at most one result so far: nothing can be said about how sure any difference is. "
        "Use at least three seeds."};
  }
  append(lines, trouble(results));
  for (const std::string& line : search_lines(results)) append(lines, line);
  return lines;
}

std::vector<std::string> notes(const Results& results) {
  std::vector<std::string> lines = {
      "± is half of a 95 % confidence interval over seeds (Student's t); seeds that all give the same have none. A "
      "difference is taken seed by seed, because trials of one seed share initial weights, order and augmentation; by "
      "Welch's test where fewer than two seeds are common.",
      "Each interval stands for itself: of many true \"no difference\"s, one in twenty looks like one."};
  if (results.interval_below > 0) {
    lines.push_back(
        fmt::format("Variants got more seeds until half of their interval was below {:g} points: intervals "
                    "after such a choice (optional stopping) hold a little less often than 95 %.",
                    results.interval_below));
  }
  if (std::ranges::any_of(results.rows, &TrialRow::search)) {
    lines.push_back(
        "Learning rates were chosen by their error on the test images, with a seed of their own (best_test_accuracy in "
        "the tables is a choice by the test images, too).");
  }
  return lines;
}

}  // namespace syncbn
