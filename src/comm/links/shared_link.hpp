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

/// Collectives among ranks of one machine, through memory that they share; by way of some of them, with other machines.
///
/// Values travel in pieces. Every rank posts its header and the values of its tree nodes in its own segment, and reads
/// those of the others there. Of short pieces everybody folds everything (one step); of long ones each rank folds its
/// shard into its own segment, and everybody collects the shards (two steps). Each element is folded along the same
/// tree either way. A rank posts a piece only after it has taken everything of the piece before the last one, so two
/// buffers are enough.
///
/// With members on other machines, what the ranks of a machine have folded of a shard goes to the ranks that hold the
/// same shard there, over a link of their own (`Beyond`), before it is collected: a value leaves each machine once,
/// however many ranks it has. Of short pieces, the first rank's shard is everything.
class SharedLink final : public Link {
 public:
  /// The way to the other machines.
  struct Beyond {
    int shards = 0;              ///< of a long piece; the first ranks of each machine hold one each
    std::unique_ptr<Link> link;  ///< among the holders of this rank's shard; null on ranks without one
  };

  /// Bytes of shared memory per rank.
  static std::size_t segment_bytes(bool goes_beyond);

  /// `parties`: the ranks of this machine that host members, ascending. `memory`: a segment for each of them. The
  /// others' may be used only after all ranks have constructed this object. Without shards beyond, all members are
  /// here.
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
    int nodes = 0;          // of the tree, that it brings
    bool has_root = false;  // of the present broadcast
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
  std::vector<Peer> peers_;  // this rank included
  std::size_t me_ = 0;
  FoldPlan plan_;
  std::size_t most_nodes_ = 1;  // that any rank brings, also on other machines
  Beyond beyond_;
  std::shared_ptr<Buffer> from_beyond_;  // shared with messages that a failure may leave under way

  std::size_t piece_bytes_ = 0;
  std::uint64_t pieces_ = 0;                // posted, since the beginning of time
  std::atomic<Stage> stage_ = Stage::idle;  // others look at it for hops()
  Header header_;
  std::vector<std::byte*> blocks_;
  Target result_;
  Slice piece_;           // of the message
  bool sharded_ = false;  // the present piece
  std::int64_t most_elements_ = 0;
  std::vector<const std::byte*> operands_;
  Buffer scratch_;
};

}  // namespace syncbn::detail
