#pragma once

#include <span>
#include <vector>

namespace syncbn::detail {

/// The fixed binary tree over n indices: the root covers [0, bit_ceil(n)), every node of size s > 1 splits into two of
/// s/2, and a node whose right half lies beyond n is its left half. Values are combined left with right along it, so
/// the result never depends on who holds which leaf.

/// The value of the tree node that begins at `first`; `item` says where the caller keeps it.
struct Block {
  int first = 0;
  int size = 1;  ///< a power of two; may reach beyond n
  int item = 0;
};

/// value[into] = value[into] combined with value[from] (left with right). Items, not indices.
struct Fold {
  int into = 0;
  int from = 0;
};

struct FoldPlan {
  std::vector<Fold> folds;  ///< in an order in which they can be done
  std::vector<Block> rest;  ///< what is left: the maximal nodes that lie within the given blocks
};

/// Folds neighbouring blocks (in ascending order, without holes) of the tree over n indices as far as possible.
FoldPlan fold_plan(int n, std::span<const Block> blocks);

/// The leaves [first, last); items count from 0.
std::vector<Block> leaves(int first, int last);

}  // namespace syncbn::detail
