#include "study/report/charts.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <optional>
#include <set>

#include "core/text.hpp"
#include "train/config/schema.hpp"

namespace syncbn {
namespace {

struct AxisKind {
  std::string title, unit;
  bool unit_first = false;
  std::vector<std::string> keys;  ///< of dimensions that may be this axis, the best first
  std::function<std::optional<double>(const TrialRow&)> value;
};

const std::string* setting_in(const TrialRow& row, const std::string& key) {
  const auto found = std::find_if(row.settings.begin(), row.settings.end(), [&](auto& s) { return s.first == key; });
  return found == row.settings.end() ? nullptr : &found->second;
}

std::optional<double> number_in(const TrialRow& row, const std::string& key) {
  const std::string* text = setting_in(row, key);
  const std::optional<double> number = text == nullptr ? std::nullopt : parse_whole<double>(*text);
  return number == 0 && detail::use_of(key).zero_is_word ? std::nullopt : number;
}

std::vector<AxisKind> axis_kinds(const Results& results) {
  std::vector<AxisKind> kinds = {
      {"Samples per worker",
       "images a worker",
       false,
       {"batch_per_worker", "workers"},
       [](const TrialRow& r) { return std::optional(static_cast<double>(r.samples_per_worker)); }},
      {"Normalization batch",
       "images per statistic",
       false,
       {"norm.group", "batch_per_worker", "workers"},
       [](const TrialRow& r) { return r.bn_span > 0 ? std::optional(static_cast<double>(r.bn_span)) : std::nullopt; }},
      {"Global batch",
       "images per update",
       false,
       {"batch_per_worker", "workers", "train.accumulate"},
       [](const TrialRow& r) { return std::optional(static_cast<double>(r.global_batch)); }},
      {"Learning rate", "learning rate", true, {"optimizer.lr"}, [](const TrialRow& r) {
         return std::optional(r.lr);
       }}};
  std::set<std::string> known = {"batch_per_worker", "workers", "norm.group", "train.accumulate", "optimizer.lr"};
  for (const auto& d : results.dimensions) {
    for (const std::string& key : d.keys) {
      if (!known.insert(key).second) continue;
      kinds.push_back({key, key, true, {key}, [key](const TrialRow& r) { return number_in(r, key); }});
    }
  }
  return kinds;
}

/// The values of a key in the study's order.
std::vector<std::string> categories_of(const Results& results, const std::string& key) {
  std::vector<std::string> categories;
  for (const TrialRow& row : results.rows) {
    const std::string* text = setting_in(row, key);
    if (text && std::find(categories.begin(), categories.end(), *text) == categories.end()) categories.push_back(*text);
  }
  return categories;
}

AxisKind word_axis(const std::string& key, const std::vector<std::string>& categories) {
  return {key, key, true, {key}, [key, categories](const TrialRow& row) -> std::optional<double> {
            const std::string* text = setting_in(row, key);
            if (text == nullptr) return std::nullopt;
            return std::find(categories.begin(), categories.end(), *text) - categories.begin();
          }};
}

/// The dimension that is this axis; -1 if there is none.
int axis_dimension(const Results& results, const AxisKind& kind) {
  for (const std::string& key : kind.keys) {
    for (std::size_t d = 0; d < results.dimensions.size(); ++d) {
      const auto& keys = results.dimensions[d].keys;
      if (!results.dimensions[d].named && std::find(keys.begin(), keys.end(), key) != keys.end()) {
        return static_cast<int>(d);
      }
    }
  }
  return -1;
}

std::string series_name(const Results& results, const TrialRow& row, int axis) {
  std::string name;
  for (std::size_t d = 0; d < row.values.size(); ++d) {
    if (static_cast<int>(d) == axis || results.dimensions[d].labels.size() < 2) continue;
    name += (name.empty() ? "" : ", ") + results.dimensions[d].labels[row.values[d]];
  }
  return name;
}

void add(Series& series, const TrialRow& row, double x) {
  auto at = std::find_if(series.points.begin(), series.points.end(),
                         [&](const SeriesPoint& p) { return p.point == row.point; });
  if (at == series.points.end()) {
    series.points.push_back({row.point, x, {}, 0});
    at = series.points.end() - 1;
  }
  if (!row.outcome) return;
  const double error = row.outcome->error();
  if (std::isnan(error)) {
    ++at->without;
  } else {
    at->errors[row.seed] = error;
  }
}

Series& series_of(std::vector<Series>& all, const std::string& name) {
  for (Series& s : all) {
    if (s.name == name) return s;
  }
  return all.emplace_back(Series{name, {}});
}

/// Nothing if some points of a series have no place on the axis, or two of them have the same: the axis is not what
/// they differ in. A series may be missing as a whole.
std::optional<ErrorChart> make_chart(const Results& results, const AxisKind& kind) {
  const int axis = axis_dimension(results, kind);
  if (axis < 0) return std::nullopt;
  ErrorChart chart{kind.title, kind.unit, kind.unit_first, {}, {}};
  std::set<double> places;
  std::set<std::string> without_place;  // series
  for (const TrialRow& row : results.rows) {
    if (row.search) continue;
    const std::string name = series_name(results, row, axis);
    if (const auto x = kind.value(row)) {
      places.insert(*x);
      add(series_of(chart.series, name), row, *x);
    } else {
      without_place.insert(name);
    }
  }
  if (places.size() < 2) return std::nullopt;
  for (Series& s : chart.series) {
    std::ranges::stable_sort(s.points, {}, &SeriesPoint::x);
    const bool shared = std::ranges::adjacent_find(s.points, {}, &SeriesPoint::x) != s.points.end();
    if (shared || without_place.contains(s.name)) return std::nullopt;
  }
  return chart;
}

/// Brings one with all points of the study to the front, where it stands for the study; none is left without it.
std::vector<ErrorChart> led_by_whole(const Results& results, std::vector<ErrorChart> charts) {
  const auto count = [](const ErrorChart& chart) {
    std::size_t points = 0;
    for (const Series& s : chart.series) points += s.points.size();
    return points;
  };
  const std::size_t all = count(points_chart(results));
  const auto whole = std::ranges::find(charts, all, count);
  if (whole == charts.end()) return {};
  std::rotate(charts.begin(), whole, whole + 1);
  return charts;
}

/// Whether two charts show the same points in the same order, so that one of them says everything.
bool same_shape(const ErrorChart& a, const ErrorChart& b) {
  std::map<int, double> places;
  for (const Series& s : a.series) {
    for (const SeriesPoint& p : s.points) places[p.point] = p.x;
  }
  std::map<double, std::set<double>> images;
  std::size_t points = 0;
  for (const Series& s : b.series) {
    for (const SeriesPoint& p : s.points) {
      const auto found = places.find(p.point);
      if (found == places.end()) return false;
      images[found->second].insert(p.x);
      ++points;
    }
  }
  const bool one_to_one = std::all_of(images.begin(), images.end(), [](const auto& e) { return e.second.size() == 1; });
  return one_to_one && points == places.size();
}

/// For a study without numbers. One key alone needs no chart: its values are the variants.
std::vector<ErrorChart> word_charts(const Results& results) {
  std::vector<ErrorChart> charts;
  for (const auto& d : results.dimensions) {
    if (d.named || d.keys.size() != 1) continue;
    const std::vector<std::string> categories = categories_of(results, d.keys.front());
    std::optional<ErrorChart> chart = make_chart(results, word_axis(d.keys.front(), categories));
    if (!chart || chart->series.size() < 2) continue;
    chart->categories = categories;
    charts.push_back(std::move(*chart));
  }
  return charts;
}

}  // namespace

std::string ErrorChart::at(double x) const {
  if (!categories.empty()) return fmt::format("{} {}", unit, categories[static_cast<std::size_t>(x)]);
  if (unit_first) return fmt::format("{} {:g}", unit, x);
  const bool one = x == 1 && unit.starts_with("images");
  return one ? "1 image" + unit.substr(std::string("images").size()) : fmt::format("{:g} {}", x, unit);
}

std::vector<ErrorChart> error_charts(const Results& results) {
  std::vector<ErrorChart> charts;
  for (const AxisKind& kind : axis_kinds(results)) {
    std::optional<ErrorChart> chart = make_chart(results, kind);
    if (!chart) continue;
    const bool shown =
        std::any_of(charts.begin(), charts.end(), [&](const ErrorChart& other) { return same_shape(other, *chart); });
    if (!shown) charts.push_back(std::move(*chart));
  }
  charts = led_by_whole(results, std::move(charts));
  return charts.empty() ? led_by_whole(results, word_charts(results)) : charts;
}

ErrorChart points_chart(const Results& results) {
  ErrorChart chart{"Variants", "", false, {}, {}};
  for (const TrialRow& row : results.rows) {
    if (!row.search) add(series_of(chart.series, row.label), row, row.point);
  }
  return chart;
}

ErrorChart variants_chart(const Results& results) {
  ErrorChart chart{"Variant", "", true, {Series{"", {}}}, {}};
  for (const Series& s : points_chart(results).series) {
    chart.series[0].points.push_back(s.points.front());
    chart.series[0].points.back().x = static_cast<double>(chart.categories.size());
    chart.categories.push_back(s.name);
  }
  return chart;
}

std::string points_text(double value, double half) {
  if (std::isnan(half) || half >= 0.95) return fmt::format("{:.1f}", value);
  return fmt::format("{:.{}f}", value, half >= 0.095 ? 1 : 2);
}

}  // namespace syncbn
