#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "ops/device.hpp"
#include "syncbn/comm/world.hpp"

namespace syncbn {

/// A pass that the workers of a rank queue for their device in the same way in every step. At first it is queued call
/// by call, which also allocates what the calls need; then it is captured once, with the queues of all workers, into a
/// graph that a single call starts. With several workers on a device, a step's thousands of calls can take longer to
/// queue than to run.
class RepeatedPass {
 public:
  /// `name`: for errors and profilers. `device`: any queue of the device; null: always call by call.
  RepeatedPass(std::string name, const ops::Device* device, int local_workers);

  /// Queues `queue_pass` of this worker for `device`, its own queue, or replays its capture. Passes of one kind must
  /// queue the same calls; other effects of queue_pass occur only when it is called. Collective over the workers of
  /// this rank, which all pass the same kind.
  void run(const Worker& worker, const ops::Device& device, std::int64_t kind, const Tag& tag,
           const std::function<void()>& queue_pass);

 private:
  /// Makes the first worker's queue wait for what all workers have queued.
  void gather(const ops::Device& first) const;

  const std::string name_;
  std::vector<std::unique_ptr<ops::Mark>> queued_;  // per worker: set behind what it has queued so far
  std::unique_ptr<ops::Mark> started_;              // on the first worker's queue
  std::vector<std::set<std::int64_t>> seen_;        // kinds of passes, per worker
  // Written by the first worker only; the others read `capturing_` between two barriers.
  std::map<std::int64_t, std::unique_ptr<ops::Graph>> graphs_;
  bool capturing_ = false;
};

}  // namespace syncbn
