#pragma once

#include <memory>
#include <vector>

#include "comm/links/mpi_handles.hpp"
#include "comm/links/transport.hpp"
#include "comm/order/shards.hpp"
#include "comm/order/topology.hpp"
#include "comm/order/tree.hpp"
#include "syncbn/core/tensor.hpp"

namespace syncbn::detail {

/// Collectives among a few ranks, made of point-to-point messages so that each message can start with a header.
///
/// Every rank sends every other rank one message: its header and the values of its tree nodes. Short values are sent
/// whole and every rank folds them; of long values each rank receives and folds only its shard, and a second message
/// distributes the folded shards. Each element is folded along the same tree either way. With `native`, the messages
/// carry headers only and MPI_Allreduce sums the values.
class MpiLink final : public Link {
 public:
  /// `tag`: used by no other link of these ranks in `comm`. `native`: a communicator of just these ranks, or
  /// MPI_COMM_NULL. `parties` cover the members, in ascending order, and include this rank.
  MpiLink(MPI_Comm comm, MPI_Comm native, int tag, const Topology& topology, const IndexRange& members,
          const std::vector<Party>& parties);
  ~MpiLink() override;

  void start(const Header& header, std::span<std::byte* const> blocks, const Target& result) override;
  bool poll() override;
  std::string missing() const override;

 private:
  enum class Stage { idle, gathering, spreading, reducing, draining };
  /// Memory and requests of the incomplete messages. Deliberately leaked if the link is destroyed before they complete.
  struct Messages {
    std::vector<Buffer> outbox, inbox;  // per peer
    std::vector<MPI_Request> sends, receives;
    std::vector<std::size_t> inbox_bytes;
    Target result;
  };

  bool is_sharded() const;
  bool is_native() const { return native_ != MPI_COMM_NULL && header_.operation == Operation::all_reduce; }
  Slice shard(std::size_t peer) const;
  std::size_t payload_from(std::size_t peer, std::size_t receiver) const;
  void send(std::size_t peer, const std::byte* data, std::size_t bytes);
  void send_first_message(std::size_t peer);
  bool receive_first_messages();
  void check_message(std::size_t peer) const;
  void after_gathering();
  void fold_blocks();
  void spread();
  void start_native();
  static bool all_done(std::vector<MPI_Request>& requests);

  MPI_Comm comm_;
  MPI_Comm native_;
  int tag_;
  const Topology& topology_;
  const std::vector<Party> peers_;  // including this rank
  const JointPlan joint_;           // for all peers' nodes
  std::size_t me_ = 0;

  Stage stage_ = Stage::idle;
  Header header_;
  std::vector<std::byte*> blocks_;
  std::unique_ptr<Messages> messages_;
};

}  // namespace syncbn::detail
