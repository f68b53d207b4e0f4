#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <vector>

#include "comm/layout.hpp"
#include "comm/shared_memory.hpp"
#include "comm/transport.hpp"
#include "comm/tree.hpp"

namespace syncbn::detail {

/// Collectives among ranks of one machine, through memory that they share.
///
/// Values travel in pieces. Every rank posts its header and the values of its tree nodes in its own segment, and reads
/// those of the others there. Of short pieces everybody folds everything (one step); of long ones each rank folds its
/// shard into its own segment, and everybody collects the shards (two steps). Each element is folded along the same
/// tree either way. A rank posts a piece only after it has taken everything of the piece before the last one, so two
/// buffers are enough.
class SharedLink final : public Link {
 public:
  static std::size_t segment_bytes();

  /// `memory`: a segment for each rank that hosts members, in ascending order. The others may be used only after all
  /// ranks have constructed this object.
  SharedLink(SharedMemory memory, const Layout& layout, const WorkerRange& members);

  void start(const Header& header, std::span<std::byte* const> blocks, const Target& result) override;
  bool poll() override;
  std::string missing() const override;
  bool in_memory() const override { return true; }

 private:
  enum class Stage { idle, gathering, collecting };
  struct Segment;
  struct Peer {
    int rank = 0;
    int first_block = 0;  // its nodes among those of all ranks
    int blocks = 0;
    bool has_root = false;  // of the present broadcast
    Segment* segment = nullptr;
  };
  /// A range of elements.
  struct Range {
    std::int64_t begin = 0, count = 0;
  };

  std::byte* values_of(const Peer& peer) const;
  Range shard_of(std::size_t peer) const;
  void post();
  bool all_posted();
  bool all_folded() const;
  void check_headers() const;
  bool take_whole();
  void fold(const Range& range, std::byte* into);
  void collect();
  bool next_piece();

  const SharedMemory memory_;
  const Layout& layout_;
  std::vector<Peer> peers_;  // this rank included
  std::size_t me_ = 0;
  FoldPlan plan_;
  int most_blocks_ = 1;

  std::uint64_t pieces_ = 0;  // posted, since the beginning of time
  Stage stage_ = Stage::idle;
  Header header_;
  std::vector<std::byte*> blocks_;
  Target result_;
  Range piece_;           // of the message
  bool sharded_ = false;  // the present piece
  std::int64_t most_elements_ = 0;
  std::vector<const std::byte*> operands_;
  Buffer scratch_;
};

}  // namespace syncbn::detail
