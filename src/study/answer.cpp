#include "study/answer.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <map>
#include <set>

namespace syncbn {
namespace {

/// More series than these are left to the charts.
constexpr std::size_t kMaxCompared = 6;

std::string plus_minus(const Interval& d) {
  return fmt::format("{} ± {} points", points_text(std::abs(d.mean), d.half), points_text(d.half, d.half));
}

Interval difference(const SeriesPoint& a, const SeriesPoint& b) {
  return difference_interval(a.errors, b.errors);
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
  // The ends are alike; say so for what lies between, too.
  for (const SeriesPoint* p : points) {
    const Interval middle = difference(*p, end);
    if (!middle.excludes_zero()) continue;
    return fmt::format("{}the error at {} is {} than at {}, by {}; between {} and {} no difference can be shown.", who,
                       chart.at(p->x), middle.mean > 0 ? "higher" : "lower", from, plus_minus(middle),
                       chart.at(start.x), from);
  }
  return fmt::format("{}no difference between {} and {} can be shown ({}{} ± {} points).", who, chart.at(start.x), from,
                     std::signbit(d.mean) ? "" : "+", points_text(d.mean, d.half), points_text(d.half, d.half));
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
  if (entries.size() > kMaxCompared) entries.resize(kMaxCompared);
  const Entry first = entries.front();
  std::map<std::string, std::string> lists;  // "less", "more", "no"
  for (std::size_t i = 1; i < entries.size(); ++i) {
    const Interval d = difference(*first.point, *entries[i].point);
    std::string& list = lists[!d.excludes_zero() ? "no" : d.mean > 0 ? "less" : "more"];
    list += (list.empty() ? "" : ", ") + entries[i].series->name;
    if (d.excludes_zero()) list += fmt::format(" by {}", plus_minus(d));
  }
  std::vector<std::string> parts;
  for (const char* way : {"less", "more"}) {
    if (lists.contains(way)) parts.push_back(fmt::format("{} error than {}: {}", way, first.series->name, lists[way]));
  }
  if (lists.contains("no")) {
    parts.push_back(fmt::format("no difference between {} and {} can be shown", first.series->name, lists["no"]));
  }
  return place + fmt::format("{}.", fmt::join(parts, "; "));
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

std::string trouble(const Results& results) {
  Tally all;
  std::vector<std::string> where;
  for (const TrialRow& row : results.rows) {
    if (row.search || !row.outcome) continue;  // candidates of a search belong to no mean
    all.add(row.hash, &*row.outcome);
    const bool result = row.outcome->status == Outcome::Status::done;
    if (!result && (where.empty() || where.back() != row.label)) where.push_back(row.label);
  }
  if (all.diverged + all.failed == 0) return "";
  std::string list;
  constexpr std::size_t kMaxListed = 4;
  for (std::size_t i = 0; i < std::min(where.size(), kMaxListed); ++i) list += (i == 0 ? "" : "; ") + where[i];
  if (where.size() > kMaxListed) list += "; ...";
  std::string what = all.diverged > 0 ? fmt::format("{} of {} trials diverged", all.diverged, all.ended) : "";
  if (all.failed > 0) what += fmt::format("{}{} of {} failed", what.empty() ? "" : ", ", all.failed, all.ended);
  return fmt::format("{} and count in no mean: {}.", what, list);
}

}  // namespace

std::vector<std::string> answer(const ErrorChart& chart) {
  std::vector<std::string> lines;
  const bool words = !chart.categories.empty();
  if (!words && chart.series.size() <= kMaxCompared) {
    for (const Series& s : chart.series) append(lines, along(chart, s));
  }
  const std::vector<double> places = common_places(chart);
  const auto compare = [&](double x) {
    append(lines, across(chart.unit.empty() ? "" : fmt::format("At {}: ", chart.at(x)), entries_at(chart, x)));
  };
  if (words) {
    for (std::size_t i = 0; i < std::min(places.size(), kMaxCompared); ++i) compare(places[i]);
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
  bool repeated = false;
  for (const Series& s : points_chart(results).series) repeated = repeated || s.points.front().errors.size() >= 2;
  if (!repeated) {
    lines = {
        "Every point has at most one result so far: nothing can be said about how sure any difference is. "
        "Use at least three seeds."};
  }
  append(lines, trouble(results));
  return lines;
}

std::vector<std::string> notes(const Results&) {
  return {
      "± is half of a 95 % confidence interval over seeds (Student's t); seeds that all give the same have none. A "
      "difference is taken seed by seed, because trials of one seed share initial weights, order and augmentation; by "
      "Welch's test where fewer than two seeds are common.",
      "Each interval stands for itself: of many true \"no difference\"s, one in twenty looks like one."};
}

}  // namespace syncbn
