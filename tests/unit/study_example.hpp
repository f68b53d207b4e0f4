#pragma once

#include <string>
#include <vector>

#include "study/results.hpp"

namespace syncbn {

/// Errors of the three seeds around the mean of a point: another order for each point. Differences of two points have
/// an interval of 4.3027 `spread` times 1 (the same order, rotated) or 2 / sqrt(3) (points 3 apart).
inline constexpr int kOrders[6][3] = {{-1, 0, 1}, {0, 1, -1}, {1, -1, 0}, {1, 0, -1}, {0, -1, 1}, {-1, 1, 0}};

/// Two normalizers at 8, 2 and 1 images a worker, three seeds each.
inline Results example(const std::vector<std::vector<double>>& means, double spread = 0.2) {
  Results r;
  r.name = "example";
  r.title = "An example";
  r.text = "base: quickstart </script>";
  r.version = "1";
  r.command = {"syncbn", "study", "example"};
  r.dimensions = {{{"norm.group"}, true, {"local BN", "synchronized BN"}},
                  {{"batch_per_worker"}, false, {"batch_per_worker=8", "batch_per_worker=2", "batch_per_worker=1"}}};
  const std::vector<int> sizes = {8, 2, 1};
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 3; ++j) {
      for (int seed = 1; seed <= 3; ++seed) {
        TrialRow row;
        row.hash = "hash" + std::to_string(r.rows.size());
        row.folder = "trials/" + row.hash;
        row.label = r.dimensions[0].labels[i] + ", " + r.dimensions[1].labels[j];
        row.point = 3 * i + j;
        row.values = {i, j};
        row.settings = {{"norm.group", i == 0 ? "1" : "all"}, {"batch_per_worker", std::to_string(sizes[j])}};
        row.seed = static_cast<std::uint64_t>(seed);
        row.samples_per_worker = sizes[j];
        row.workers = 8;
        row.global_batch = 8 * sizes[j];
        row.bn_span = i == 0 ? sizes[j] : 8 * sizes[j];
        row.norm = "batch";
        row.norm_group = i == 0 ? "1" : "all";
        Outcome o;
        o.metrics["test_accuracy"] = 1 - (means[i][j] + spread * kOrders[row.point][seed - 1]) / 100;
        o.machine = {{"seconds", 2}, {"ranks", 1}, {"threads", 1}};
        row.outcome = o;
        r.rows.push_back(row);
      }
    }
  }
  return r;
}

}  // namespace syncbn
