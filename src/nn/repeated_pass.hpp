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

/// A pass that the workers of a rank queue for their device in every step alike: call by call at first, which also
/// makes what the calls need, then once into a graph, with the queues of all workers, which one call starts from then
/// on. Several workers on a device need thousands of calls a step, and longer to make them than the device to do them.
class RepeatedPass {
 public:
  /// `name`: for errors and profilers. `device`: any queue of it; null: call by call always.
  RepeatedPass(std::string name, const ops::Device* device, int local_workers);

  /// Queues `queue_pass` of this worker for `device`, its own queue, or what was captured of it. Passes of one kind
  /// queue the same; what queue_pass does besides is done only when it is called. Collective over the workers of this
  /// rank, who all bring the same kind.
  void run(const Worker& worker, const ops::Device& device, std::int64_t kind, const Tag& tag,
           const std::function<void()>& queue_pass);

 private:
  /// The first worker's queue comes behind what all have queued.
  void gather(const ops::Device& first) const;

  const std::string name_;
  std::vector<std::unique_ptr<ops::Mark>> queued_;  // of each worker: what it has queued so far
  std::unique_ptr<ops::Mark> started_;              // on the first worker's queue
  std::vector<std::set<std::int64_t>> seen_;        // kinds, by each worker
  // The first worker's; the others read `capturing_` between two barriers.
  std::map<std::int64_t, std::unique_ptr<ops::Graph>> graphs_;
  bool capturing_ = false;
};

}  // namespace syncbn
