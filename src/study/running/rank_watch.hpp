#pragma once

#include <string>
#include <vector>

namespace syncbn {

/// Which ranks have not been heard from, by the waiting clock.
class RankWatch {
 public:
  /// Their signs are awaited from now on. `hosts` of the ranks; empty where nobody knows.
  RankWatch(int ranks, std::vector<std::string> hosts);

  /// Notes a sign of a rank. Whether its silence had been told.
  bool heard(int rank);
  /// Whether the rank has been silent for longer than `limit_s`; true once for each silence.
  bool missed(int rank, double limit_s);
  /// "rank 2 (node3) has not been heard from for 30 s: stopped, stuck or unreachable"
  std::string silence(int rank) const;
  /// "rank 2 (node3)"
  std::string describe(int rank) const;

 private:
  struct Rank {
    double heard_s = 0;
    bool told = false;
  };
  double silent_s(int rank) const;

  std::vector<Rank> ranks_;
  std::vector<std::string> hosts_;
};

}  // namespace syncbn
