#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "syncbn/comm/communicator.hpp"

namespace syncbn {

/// The base of normalizations by batch statistics: counts this worker's samples, exchanges messages with its group and
/// derives the group's count and mean.
class StatisticsPass {
 public:
  /// Starts a new check of the contributions, see local_finite().
  void begin_update() { local_finite_ = true; }
  /// Whether this worker's contributions since begin_update() were finite numbers only.
  bool local_finite() const { return local_finite_; }

  // ---- statistics of the group, after finish() ----
  std::int64_t count() const { return count_; }           ///< M: values per channel, over the group
  std::span<const double> mean() const { return mean_; }  ///< [C]
  double unbiased_factor() const;                         ///< M / (M - 1)
  /// Throws, on all members alike, when the group's count is 1: such a batch has no variance.
  void require_variance() const;

 protected:
  /// `type`: the layer's type, for errors.
  StatisticsPass(const char* type, std::string name, std::int64_t channels, double eps, Communicator group);
  ~StatisticsPass() = default;

  std::string where() const;  ///< "batch_norm 'layer1.bn' (step 7): "
  void start_contribution(std::span<double> message, std::int64_t step);
  void start_all_reduce(std::span<double> message, std::int64_t step);
  void finish_all_reduce() { group_.finish_all_reduce(); }

  const char* type_;
  std::string name_;
  std::int64_t channels_;
  double eps_;
  bool has_pivot_ = false;
  std::int64_t local_count_ = 0, count_ = 0;
  std::vector<double> mean_;

 private:
  Communicator group_;
  std::int64_t step_ = 0;
  bool local_finite_ = true;
};

bool all_finite(std::span<const double> values);

/// Throws Error if a group of `workers` workers has `count` = 1 value per channel, which has no variance. `type` and
/// `name` are those of the layer.
void require_variance(const char* type, const std::string& name, std::int64_t step, std::int64_t count, int workers);

}  // namespace syncbn
