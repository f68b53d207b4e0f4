#include "comm/tree.hpp"

#include <bit>

namespace syncbn::detail {

namespace {

/// A node whose sibling on the right lies beyond n stands for its parent.
void promote(Block& block, int n) {
  const int root = static_cast<int>(std::bit_ceil(static_cast<unsigned>(n)));
  while (block.size < root && block.first % (2 * block.size) == 0 && block.first + block.size >= n) block.size *= 2;
}

bool siblings(const Block& left, const Block& right) {
  return left.size == right.size && left.first + left.size == right.first && left.first % (2 * left.size) == 0;
}

}  // namespace

FoldPlan fold_plan(int n, std::span<const Block> blocks) {
  FoldPlan plan;
  std::vector<Block>& stack = plan.rest;
  for (const Block& block : blocks) {
    stack.push_back(block);
    promote(stack.back(), n);
    while (stack.size() > 1 && siblings(stack[stack.size() - 2], stack.back())) {
      Block& left = stack[stack.size() - 2];
      plan.folds.push_back({left.item, stack.back().item});
      left.size *= 2;
      stack.pop_back();
      promote(left, n);
    }
  }
  return plan;
}

std::vector<Block> leaves(int first, int last) {
  std::vector<Block> result;
  for (int i = first; i < last; ++i) result.push_back({i, 1, i - first});
  return result;
}

}  // namespace syncbn::detail
