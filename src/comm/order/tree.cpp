#include "comm/order/tree.hpp"

#include <bit>

namespace syncbn::detail {

namespace {

/// The value of the tree node that begins at leaf `first`.
struct Node {
  int first = 0;
  int size = 1;  // a power of two; may extend beyond n
  int item = 0;
};

/// Replaces a node whose right sibling lies beyond n by its parent.
void promote(Node& node, int n) {
  const int root = static_cast<int>(std::bit_ceil(static_cast<unsigned>(n)));
  while (node.size < root && node.first % (2 * node.size) == 0 && node.first + node.size >= n) node.size *= 2;
}

bool siblings(const Node& left, const Node& right) {
  return left.size == right.size && left.first + left.size == right.first && left.first % (2 * left.size) == 0;
}

/// Folds neighbouring nodes of the tree over n leaves as far as possible; returns the remaining nodes.
std::vector<Node> fold(int n, const std::vector<Node>& nodes, std::vector<Fold>& folds) {
  std::vector<Node> stack;
  for (const Node& node : nodes) {
    stack.push_back(node);
    promote(stack.back(), n);
    while (stack.size() > 1 && siblings(stack[stack.size() - 2], stack.back())) {
      Node& left = stack[stack.size() - 2];
      folds.push_back({left.item, stack.back().item});
      left.size *= 2;
      stack.pop_back();
      promote(left, n);
    }
  }
  return stack;
}

std::vector<Node> leaves(const IndexRange& all, const IndexRange& some) {
  std::vector<Node> nodes;
  for (int i = some.first; i < some.last; ++i) nodes.push_back({i - all.first, 1, i - some.first});
  return nodes;
}

std::vector<int> items_of(const std::vector<Node>& nodes) {
  std::vector<int> items;
  for (const Node& node : nodes) items.push_back(node.item);
  return items;
}

}  // namespace

FoldPlan fold_leaves(const IndexRange& all, const IndexRange& some) {
  FoldPlan plan;
  plan.rest = items_of(fold(all.size(), leaves(all, some), plan.folds));
  return plan;
}

JointPlan fold_parties(const IndexRange& all, std::span<const Party> parties) {
  JointPlan joint;
  std::vector<Node> nodes;
  std::vector<Fold> own;  // folds done by the parties themselves
  for (const Party& party : parties) {
    const std::size_t before = nodes.size();
    for (Node node : fold(all.size(), leaves(all, party.workers), own)) {
      node.item = static_cast<int>(nodes.size());
      nodes.push_back(node);
    }
    joint.nodes.push_back(static_cast<int>(nodes.size() - before));
  }
  joint.plan.rest = items_of(fold(all.size(), nodes, joint.plan.folds));
  return joint;
}

}  // namespace syncbn::detail
