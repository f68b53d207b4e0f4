#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "comm/links/header.hpp"
#include "comm/links/transport.hpp"

namespace syncbn::detail {

/// The gradients of this rank's workers in one kind of memory, and their tree-ordered sums, bucket by bucket, over the
/// workers that share this memory: all workers, or those of this rank. Rounds count from 1, one per step, and are the
/// same on all ranks. The workers sum: bring() each bucket, then fold() what has been brought.
class Gradients {
 public:
  virtual ~Gradients() = default;

  /// The gradient of a worker of this rank.
  virtual float* gradient(int local_index) = 0;
  /// Memory for the sum over all workers.
  virtual Target result() = 0;
  /// Whether all workers share this memory. If so, folding a bucket gives its result; otherwise it replaces the
  /// gradients of the workers in rest() by the partial sums of the tree nodes that they begin.
  virtual bool complete() const = 0;
  virtual const std::vector<int>& rest() const = 0;

  /// Called by each worker when it has written the bucket.
  virtual void written(int /*bucket*/, int /*local_index*/) {}
  /// Announces that all workers of this rank have written the bucket. `header`: this rank's description of it, to be
  /// compared. `by`: the calling worker's index on this rank.
  virtual void bring(int bucket, std::uint64_t round, const Header& header, int by) = 0;
  /// Whether all ranks that share this memory have announced the bucket.
  virtual bool brought(int bucket, std::uint64_t round) const = 0;
  /// Does what is left to do of this rank's share of a bucket that all have brought. Returns true for the one call per
  /// rank that completes it. Throws Error if the ranks' headers differ.
  virtual bool fold(int bucket, std::uint64_t round, int by) = 0;
  /// Whether all ranks that share this memory have completed their shares of the bucket.
  virtual bool folded(int bucket, std::uint64_t round) const = 0;
  /// The ranks that have not brought or folded the bucket.
  virtual std::string missing(int /*bucket*/, std::uint64_t /*round*/) const { return "nobody"; }

  /// Turns a link between the ranks into one that exchanges values in this memory. Collective over ranks.
  virtual std::unique_ptr<Link> extend(std::unique_ptr<Link> link) { return link; }
  /// To be called first on the thread that uses that link.
  virtual void prepare_thread() {}
};

}  // namespace syncbn::detail
