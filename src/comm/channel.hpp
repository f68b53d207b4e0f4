#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "comm/links/header.hpp"
#include "comm/order/tree.hpp"
#include "comm/rank_context.hpp"
#include "comm/remote_wait.hpp"
#include "syncbn/core/tensor.hpp"

namespace syncbn::detail {

/// One communicator as seen by this rank: where its local members meet. Every member deposits a header and its values;
/// the last one to arrive compares the headers, folds the values along the tree and, if there are members on other
/// ranks, starts the exchange with them. Members that wait advance that exchange.
class Channel {
 public:
  /// `members` must include workers of this rank.
  Channel(RankContext& context, int id, const IndexRange& members);

  const IndexRange& members() const { return members_; }

  /// The two halves of a collective, called by a local member. `values` are read, and written if the operation has a
  /// result; they must live until finish() has returned, unless the caller fails. `complete` of the first local member
  /// is called by the worker that completes the exchange.
  void start(int worker, Header header, std::span<std::byte> values, std::function<void()> complete = nullptr);
  void finish(int worker);
  void collective(int worker, const Header& header, std::span<std::byte> values) {
    start(worker, header, values);
    finish(worker);
  }
  double waited_seconds(int worker) const { return seats_[seat_of(worker)].waited_s; }

 private:
  enum class Phase { collecting, exchanging, done };

  /// Two rounds are enough: nobody can start round s + 2 before everybody has left round s.
  struct Round {
    std::uint64_t sequence = ~std::uint64_t{0};
    int arrived = 0;
    std::atomic<Phase> phase{Phase::done};
    std::vector<bool> here;
    std::vector<Header> headers;
    std::vector<Buffer> values;  // per seat; copies, so that they outlive a worker that fails
    std::vector<std::byte*> blocks;
    std::shared_ptr<Buffer> from_ranks = std::make_shared<Buffer>();
    const std::byte* result = nullptr;
  };

  /// State that only its own worker touches.
  struct Seat {
    std::uint64_t next = 0;  // sequence number of the next collective
    bool pending = false;
    std::span<std::byte> values;  // of the current collective
    std::function<void()> complete;
    double waited_s = 0;
  };

  /// A local member's index, from 0.
  int seat_of(int worker) const { return worker - local_.first; }
  /// The index of this seat's worker within its rank.
  int local_index(int seat) const { return local_.first + seat - context_.topology().local().first; }
  Round& round_of(std::uint64_t sequence) { return rounds_[sequence % 2]; }
  /// Completes the local part; called by the last local member to arrive.
  void complete_here(Round& round, int seat);
  void set_phase(Round& round, Phase phase);
  void complete(Round& round, int seat);
  bool is_done(Round& round, int seat);
  void wait(Round& round, int seat);
  bool try_exchange(Round& round, int seat);
  void check_arrivals(const Round& round, int seat, const Deadline& deadline);
  std::string describe_local(int seat) const;

  RankContext& context_;
  const IndexRange members_;
  const IndexRange local_;
  const FoldPlan plan_;
  std::unique_ptr<Link> link_;
  const bool direct_;  // a single local member's values are exchanged without copies

  std::vector<Seat> seats_;
  std::mutex mutex_;
  std::mutex link_mutex_;  // held while polling link_
  std::array<Round, 2> rounds_;
};

}  // namespace syncbn::detail
