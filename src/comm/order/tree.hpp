#pragma once

#include <span>
#include <vector>

#include "comm/order/topology.hpp"

namespace syncbn::detail {

/// The fixed binary tree over n workers: the root covers [0, bit_ceil(n)), every node of size s > 1 splits into two of
/// s/2, and a node whose right half lies beyond n is its left half. Values are combined left with right along it, so
/// the result never depends on who holds which leaf.
///
/// Whoever holds the values of some neighbouring workers folds them into those of the largest nodes that lie within
/// (fold_leaves); what several such parties then bring folds into the root (fold_parties).

/// value[into] = value[into] combined with value[from] (left with right). Items, not workers.
struct Fold {
  int into = 0;
  int from = 0;
};

struct FoldPlan {
  std::vector<Fold> folds;  ///< in an order in which they can be done
  std::vector<int> rest;    ///< items that hold the nodes which are left, in ascending order
};

/// Folds the workers `some` of the tree over `all` as far as possible. Items are workers, counted from some.first.
FoldPlan fold_leaves(const IndexRange& all, const IndexRange& some);

struct JointPlan {
  std::vector<int> nodes;  ///< how many each party brings
  FoldPlan plan;           ///< items are the nodes of all parties, in ascending order
};

/// Folds what parties bring, each its plan's rest, as far as possible. Their workers are neighbours in ascending order.
JointPlan fold_parties(const IndexRange& all, std::span<const Party> parties);

}  // namespace syncbn::detail
