#include "comm/control_channel.hpp"

#include <algorithm>
#include <cstring>

#include "comm/order/tree.hpp"
#include "comm/rank_context.hpp"
#include "comm/remote_wait.hpp"

namespace syncbn::detail {

ControlChannel::ControlChannel(RankContext& context, int id)
    : context_(context), link_(context.transport().connect(id, context.topology().all())) {}

std::vector<std::int64_t> ControlChannel::sum_over_ranks(std::vector<std::int64_t> numbers, const std::string& what) {
  // Summed in pieces, since a checkpoint may be longer than what MPI can count.
  constexpr std::size_t kMost = std::size_t{1} << 20;
  if (numbers.size() <= kMost) return sum_piece_over_ranks(std::move(numbers), what);
  for (std::size_t begin = 0; begin < numbers.size(); begin += kMost) {
    const auto first = numbers.begin() + static_cast<std::ptrdiff_t>(begin);
    const auto last = first + static_cast<std::ptrdiff_t>(std::min(kMost, numbers.size() - begin));
    const std::vector<std::int64_t> sums = sum_piece_over_ranks({first, last}, what);
    std::copy(sums.begin(), sums.end(), first);
  }
  return numbers;
}

std::vector<std::int64_t> ControlChannel::sum_piece_over_ranks(std::vector<std::int64_t> numbers,
                                                               const std::string& what) {
  // A rank brings one value for each of its tree nodes: its numbers for the first, zeros for the others.
  const Topology& topology = context_.topology();
  const std::size_t nodes = fold_leaves(topology.all(), topology.local()).rest.size();
  std::vector<std::vector<std::int64_t>> values(nodes, std::vector<std::int64_t>(numbers.size()));
  values[0] = std::move(numbers);
  std::vector<std::byte*> blocks;
  for (auto& value : values) blocks.push_back(reinterpret_cast<std::byte*>(value.data()));
  Header header = Header::make(Operation::all_reduce, {what});
  header.type = Element::i64;
  header.count = static_cast<std::int64_t>(values[0].size());
  header.sequence = calls_++;
  const auto result = std::make_shared<Buffer>(header.bytes());
  link_->start(header, blocks, {result, result->data()});
  const auto where = [&] { return context_.describe_rank_at(header); };
  drive(*link_, context_, where, kSetUpPatience);
  return {result->as<std::int64_t>(), result->as<std::int64_t>() + header.count};
}

std::vector<std::string> ControlChannel::all_gather(const std::string& value, const std::string& what) {
  if (!link_) return {value};
  context_.throw_if_failed();
  const auto words_in = [](std::size_t bytes) { return (bytes + 7) / 8; };
  const auto ranks = static_cast<std::size_t>(context_.topology().ranks);
  const auto me = static_cast<std::size_t>(context_.topology().rank);
  std::vector<std::int64_t> sizes(ranks);
  sizes[me] = static_cast<std::int64_t>(value.size());
  sizes = sum_over_ranks(std::move(sizes), what);
  std::vector<std::size_t> begin(ranks + 1);
  for (std::size_t r = 0; r < ranks; ++r) begin[r + 1] = begin[r] + words_in(static_cast<std::size_t>(sizes[r]));
  std::vector<std::int64_t> words(begin[ranks]);
  if (!value.empty()) std::memcpy(words.data() + begin[me], value.data(), value.size());
  words = sum_over_ranks(std::move(words), what);
  std::vector<std::string> values;
  for (std::size_t r = 0; r < ranks; ++r)
    values.emplace_back(reinterpret_cast<const char*>(words.data() + begin[r]), static_cast<std::size_t>(sizes[r]));
  return values;
}

}  // namespace syncbn::detail
