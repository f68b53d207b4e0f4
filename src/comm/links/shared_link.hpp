#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "comm/links/shared_memory.hpp"
#include "comm/links/transport.hpp"
#include "comm/order/shards.hpp"
#include "comm/order/topology.hpp"
#include "comm/order/tree.hpp"

namespace syncbn::detail {

/// Collectives among ranks of one machine through shared memory and, through some of these ranks, with other machines.
///
/// Values travel in pieces. Every rank posts its header and the values of its tree nodes in its own segment, and reads
/// the others' segments. Short pieces are folded whole by every rank (one step); of long pieces each rank folds its
/// shard into its own segment, and every rank then collects all shards (two steps). Each element is folded along the
/// same tree either way. A rank posts a piece only after it has read everything of the piece before the previous one,
/// so two buffers are enough.
///
/// If there are members on other machines, the ranks that hold the same shard on each machine exchange its partial
/// results over a link of their own (`Beyond`) before it is collected: each value leaves a machine once, however many
/// ranks the machine has. Short pieces are a single shard, which the first rank holds.
class SharedLink final : public Link {
 public:
  /// The connection to the other machines.
  struct Beyond {
    int shards = 0;              ///< shards of a long piece; held by the first ranks of each machine
    std::unique_ptr<Link> link;  ///< among the holders of this rank's shard; null on ranks without a shard
  };

  /// Bytes of shared memory per rank.
  static std::size_t segment_bytes(bool goes_beyond);

  /// `parties`: the ranks of this machine that host members, ascending. `memory`: one segment for each of them. Other
  /// ranks' segments may be used only after all ranks have constructed this object. `beyond` without shards: all
  /// members are on this machine.
  SharedLink(SharedMemory memory, const Topology& topology, const IndexRange& members,
             const std::vector<Party>& parties, Beyond beyond);

  void start(const Header& header, std::span<std::byte* const> blocks, const Target& result) override;
  bool poll() override;
  std::uint64_t progress() const override {
    return 4 * pieces_ + static_cast<std::uint64_t>(stage_.load(std::memory_order_relaxed));
  }
  std::string missing() const override;
  int hops() const override;
  bool in_memory() const override { return !goes_beyond(); }

 private:
  enum class Stage { idle, gathering, beyond, collecting };
  struct Segment;
  struct Peer {
    int rank = 0;
    int nodes = 0;          // of the tree, that this rank brings
    bool has_root = false;  // whether it is the root of the current broadcast
    Segment* segment = nullptr;
  };

  void enter(Stage stage) { stage_.store(stage, std::memory_order_relaxed); }
  bool goes_beyond() const { return beyond_.shards > 0; }
  std::byte* values_of(const Peer& peer) const;
  std::size_t shards() const;
  Slice shard(std::size_t peer) const;
  std::byte* place_of(std::size_t peer) const;
  void post();
  bool all_posted();
  bool all_folded() const;
  void check_headers() const;
  bool take_whole();
  void fold(const Slice& slice, std::byte* root);
  void begin_beyond();
  void announce_shard();
  void collect();
  bool next_piece();

  const SharedMemory memory_;
  const Topology& topology_;
  std::vector<Peer> peers_;  // including this rank
  std::size_t me_ = 0;
  FoldPlan plan_;
  std::size_t most_nodes_ = 1;  // maximum over all ranks, also of other machines
  Beyond beyond_;
  std::shared_ptr<Buffer> from_beyond_;  // also owned by messages that a failure may leave incomplete

  std::size_t piece_bytes_ = 0;
  std::uint64_t pieces_ = 0;                // posted since the start
  std::atomic<Stage> stage_ = Stage::idle;  // other threads read it in hops()
  Header header_;
  std::vector<std::byte*> blocks_;
  Target result_;
  Slice piece_;           // the current piece of the message
  bool sharded_ = false;  // whether the current piece is
  std::int64_t most_elements_ = 0;
  std::vector<const std::byte*> operands_;
  Buffer scratch_;
};

}  // namespace syncbn::detail
