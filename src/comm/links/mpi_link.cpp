#include "comm/links/mpi_link.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <climits>
#include <cstring>
#include <forward_list>
#include <mutex>
#include <utility>

#include "comm/order/shards.hpp"

namespace syncbn::detail {

namespace {

std::byte* reserve(Buffer& buffer, std::size_t bytes) {
  if (buffer.size() < bytes) buffer = Buffer(bytes);
  return buffer.data();
}

int message_size(std::size_t bytes) {
  if (bytes > INT_MAX) throw Error(fmt::format("a message of {} bytes is too long; use smaller buckets", bytes));
  return static_cast<int>(bytes);
}

MPI_Datatype mpi_type(Element type) {
  switch (type) {
    case Element::f32:
      return MPI_FLOAT;
    case Element::f64:
      return MPI_DOUBLE;
    case Element::i64:
      return MPI_INT64_T;
    case Element::byte:
      break;
  }
  return MPI_BYTE;
}

MPI_Op mpi_op(Reduce op) {
  switch (op) {
    case Reduce::sum:
      return MPI_SUM;
    case Reduce::max:
      return MPI_MAX;
    case Reduce::min:
      return MPI_MIN;
  }
  return MPI_OP_NULL;
}

}  // namespace

MpiLink::MpiLink(MPI_Comm comm, MPI_Comm native, int tag, const Topology& topology, const IndexRange& members,
                 const std::vector<Party>& parties)
    : comm_(comm),
      native_(native),
      tag_(tag),
      topology_(topology),
      peers_(parties),
      joint_(fold_parties(members, parties)),
      messages_(std::make_unique<Messages>()) {
  while (peers_[me_].rank != topology.rank) ++me_;
  messages_->outbox.resize(peers_.size());
  messages_->inbox.resize(peers_.size());
  messages_->inbox_bytes.resize(peers_.size());
}

MpiLink::~MpiLink() {
  if (stage_ == Stage::idle) return;
  // Sends cannot be cancelled: MPI may still access the memory of unfinished messages, so it is kept to the end of the
  // process.
  static std::mutex mutex;
  static auto& kept = *new std::forward_list<std::unique_ptr<Messages>>;  // reachable for leak checkers
  const std::lock_guard lock(mutex);
  kept.push_front(std::move(messages_));
}

bool MpiLink::is_sharded() const {
  return header_.operation == Operation::all_reduce && !is_native() && header_.bytes() > kWholeMessageBytes;
}

/// The shard that a peer folds.
Slice MpiLink::shard(std::size_t peer) const {
  if (!is_sharded()) return {0, header_.count};
  return shard_of(header_.count, static_cast<int>(peer), static_cast<int>(peers_.size()));
}

std::size_t MpiLink::payload_from(std::size_t peer, std::size_t receiver) const {
  switch (header_.operation) {
    case Operation::all_reduce:
      if (is_native()) return 0;
      return static_cast<std::size_t>(joint_.nodes[peer]) * header_.bytes_of(shard(receiver).count);
    case Operation::broadcast:
      return peers_[peer].workers.contains(header_.root) ? header_.bytes() : 0;
    default:
      return 0;
  }
}

void MpiLink::start(const Header& header, std::span<std::byte* const> blocks, const Target& result) {
  header_ = header;
  header_.worker = topology_.local().first;
  blocks_.assign(blocks.begin(), blocks.end());
  messages_->result = result;
  messages_->sends.clear();
  messages_->receives.assign(peers_.size(), MPI_REQUEST_NULL);
  std::fill(messages_->inbox_bytes.begin(), messages_->inbox_bytes.end(), 0);
  stage_ = Stage::gathering;
  for (std::size_t peer = 0; peer < peers_.size(); ++peer)
    if (peer != me_) send_first_message(peer);
}

void MpiLink::send(std::size_t peer, const std::byte* data, std::size_t bytes) {
  messages_->sends.push_back(MPI_REQUEST_NULL);
  check_mpi(MPI_Isend(data, message_size(bytes), MPI_BYTE, peers_[peer].rank, tag_, comm_, &messages_->sends.back()),
            "MPI_Isend");
}

void MpiLink::send_first_message(std::size_t peer) {
  const std::size_t payload = payload_from(me_, peer);
  std::byte* message = reserve(messages_->outbox[peer], kHeaderBytes + payload);
  std::memcpy(message, &header_, sizeof header_);
  if (payload > 0) {
    const Slice theirs = shard(peer);
    const std::size_t offset = header_.bytes_of(theirs.begin);
    const std::size_t bytes = header_.bytes_of(theirs.count);
    for (std::size_t i = 0; i < blocks_.size(); ++i)
      std::memcpy(message + kHeaderBytes + i * bytes, blocks_[i] + offset, bytes);
  }
  send(peer, message, kHeaderBytes + payload);
}

bool MpiLink::receive_first_messages() {
  bool all_here = true;
  for (std::size_t peer = 0; peer < peers_.size(); ++peer) {
    if (peer == me_) continue;
    Messages& m = *messages_;
    if (m.inbox_bytes[peer] == 0) {
      int found = 0;
      MPI_Message message = MPI_MESSAGE_NULL;
      MPI_Status status;
      check_mpi(MPI_Improbe(peers_[peer].rank, tag_, comm_, &found, &message, &status), "MPI_Improbe");
      if (!found) {
        all_here = false;
        continue;
      }
      int bytes = 0;
      check_mpi(MPI_Get_count(&status, MPI_BYTE, &bytes), "MPI_Get_count");
      std::byte* memory = reserve(m.inbox[peer], std::max(static_cast<std::size_t>(bytes), kHeaderBytes));
      m.inbox_bytes[peer] = std::max<std::size_t>(1, static_cast<std::size_t>(bytes));
      check_mpi(MPI_Imrecv(memory, bytes, MPI_BYTE, &message, &m.receives[peer]), "MPI_Imrecv");
    }
    if (m.receives[peer] == MPI_REQUEST_NULL) continue;
    int done = 0;
    check_mpi(MPI_Test(&m.receives[peer], &done, MPI_STATUS_IGNORE), "receiving a message");
    if (done)
      check_message(peer);
    else
      all_here = false;
  }
  return all_here;
}

void MpiLink::check_message(std::size_t peer) const {
  const std::size_t bytes = messages_->inbox_bytes[peer];
  Header theirs;
  if (bytes < kHeaderBytes)
    throw Error(fmt::format("{} sent {} bytes without a header", topology_.describe_rank(peers_[peer].rank), bytes));
  std::memcpy(&theirs, messages_->inbox[peer].data(), sizeof theirs);
  require_equal(theirs, peers_[peer].rank, header_, topology_.rank,
                [this](int rank) { return topology_.describe_rank(rank); });
  const std::size_t expected = kHeaderBytes + payload_from(peer, me_);
  if (bytes != expected)
    throw Error(fmt::format("{} sent {} bytes at {}, expected {}; do all ranks run the same program?",
                            topology_.describe_rank(peers_[peer].rank), bytes, describe(header_), expected));
}

bool MpiLink::poll() {
  switch (stage_) {
    case Stage::idle:
      return true;
    case Stage::gathering:
      if (!receive_first_messages()) return false;
      after_gathering();
      return poll();
    case Stage::spreading:
    case Stage::reducing:
      if (!all_done(messages_->receives)) return false;
      stage_ = Stage::draining;
      return poll();
    case Stage::draining:
      if (!all_done(messages_->sends)) return false;
      stage_ = Stage::idle;
      return true;
  }
  return false;
}

void MpiLink::after_gathering() {
  stage_ = Stage::draining;
  if (header_.operation == Operation::broadcast) {
    std::byte* result = messages_->result.data;
    if (!blocks_.empty()) std::memcpy(result, blocks_[0], header_.bytes());
    for (std::size_t peer = 0; peer < peers_.size(); ++peer)
      if (peer != me_ && header_.count > 0 && payload_from(peer, me_) > 0)
        std::memcpy(result, messages_->inbox[peer].data() + kHeaderBytes, header_.bytes());
    return;
  }
  if (header_.operation != Operation::all_reduce) return;
  if (is_native()) return start_native();
  fold_blocks();
  if (is_sharded()) spread();
}

void MpiLink::fold_blocks() {
  const Slice mine = shard(me_);
  const std::size_t offset = header_.bytes_of(mine.begin);
  const std::size_t bytes = header_.bytes_of(mine.count);
  if (bytes == 0) return;
  std::vector<std::byte*> values;  // nodes of all ranks, in order
  for (std::size_t peer = 0; peer < peers_.size(); ++peer)
    for (std::size_t i = 0; i < static_cast<std::size_t>(joint_.nodes[peer]); ++i)
      values.push_back(peer == me_ ? blocks_[i] + offset : messages_->inbox[peer].data() + kHeaderBytes + i * bytes);
  for (const Fold& fold : joint_.plan.folds) {
    std::byte* into = values[fold.into];
    combine(into, into, values[fold.from], mine.count, header_.type, header_.reduce);
  }
  std::memcpy(messages_->result.data + offset, values[0], bytes);
}

void MpiLink::spread() {
  stage_ = Stage::spreading;
  const auto place = [this](std::size_t owner) {
    return messages_->result.data + header_.bytes_of(shard(owner).begin);
  };
  const auto bytes = [this](std::size_t owner) { return header_.bytes_of(shard(owner).count); };
  for (std::size_t peer = 0; peer < peers_.size(); ++peer) {
    if (peer == me_) continue;
    check_mpi(MPI_Irecv(place(peer), message_size(bytes(peer)), MPI_BYTE, peers_[peer].rank, tag_, comm_,
                        &messages_->receives[peer]),
              "MPI_Irecv");
    send(peer, place(me_), bytes(me_));
  }
}

void MpiLink::start_native() {
  stage_ = Stage::reducing;
  for (std::size_t i = 1; i < blocks_.size(); ++i)
    combine(blocks_[0], blocks_[0], blocks_[i], header_.count, header_.type, header_.reduce);
  if (header_.bytes() > 0) std::memcpy(messages_->result.data, blocks_[0], header_.bytes());
  check_mpi(MPI_Iallreduce(MPI_IN_PLACE, messages_->result.data, static_cast<int>(header_.count),
                           mpi_type(header_.type), mpi_op(header_.reduce), native_, &messages_->receives[me_]),
            "MPI_Iallreduce");
}

bool MpiLink::all_done(std::vector<MPI_Request>& requests) {
  int done = 0;
  check_mpi(MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE),
            "waiting for messages");
  return done != 0;
}

std::string MpiLink::missing() const {
  std::string list;
  for (std::size_t peer = 0; peer < peers_.size(); ++peer) {
    if (peer == me_) continue;
    const bool silent = messages_->inbox_bytes[peer] == 0 || messages_->receives[peer] != MPI_REQUEST_NULL;
    if (silent) list += (list.empty() ? "" : ", ") + topology_.describe_rank(peers_[peer].rank);
  }
  return list.empty() ? "its own messages to be taken" : list;
}

}  // namespace syncbn::detail
