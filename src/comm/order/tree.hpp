#pragma once

#include <span>
#include <vector>

#include "comm/order/topology.hpp"

namespace syncbn::detail {

/// The fixed binary tree over n workers: the root covers [0, bit_ceil(n)), every node of size s > 1 splits into two of
/// s/2, and a node whose right half lies beyond n is its left half. Values are combined left with right along it, so
/// the result never depends on who holds which leaf.
///
/// The holder of several neighbouring workers' values folds them into those of the largest tree nodes within its range
/// (fold_leaves); the nodes of several such parties then fold into the root (fold_parties).

/// One fold: value[into] = value[into] combined with value[from] (left with right). These are items, not workers.
struct Fold {
  int into = 0;
  int from = 0;
};

struct FoldPlan {
  std::vector<Fold> folds;  ///< in an order in which they can be executed
  std::vector<int> rest;    ///< items that hold the remaining nodes, in ascending order
};

/// Folds the workers `some` of the tree over `all` as far as possible. Items are workers, counted from some.first.
FoldPlan fold_leaves(const IndexRange& all, const IndexRange& some);

struct JointPlan {
  std::vector<int> nodes;  ///< how many nodes each party brings
  FoldPlan plan;           ///< items are the nodes of all parties, in ascending order
};

/// Folds the nodes that the parties bring (the rest of each party's plan) as far as possible. The parties cover
/// consecutive workers, in ascending order.
JointPlan fold_parties(const IndexRange& all, std::span<const Party> parties);

}  // namespace syncbn::detail
