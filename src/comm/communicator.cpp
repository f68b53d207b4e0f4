#include "syncbn/comm/communicator.hpp"

#include <algorithm>

#include "comm/channel.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn {

namespace {

using detail::Element;
using detail::Header;
using detail::Operation;

// Maximum size of one message (MPI counts are ints); longer messages are sent in pieces.
constexpr std::size_t kPieceBytes = std::size_t{1} << 28;

template <class T>
constexpr Element element_of() {
  if constexpr (std::is_same_v<T, float>) return Element::f32;
  if constexpr (std::is_same_v<T, double>) return Element::f64;
  if constexpr (std::is_same_v<T, std::int64_t>) return Element::i64;
}

template <class T>
Header reduce_header(std::span<T> values, Reduce op, const Tag& tag) {
  Header header = Header::make(Operation::all_reduce, tag);
  header.type = element_of<T>();
  header.reduce = op;
  header.count = static_cast<std::int64_t>(values.size());
  return header;
}

template <class T>
void reduce(detail::Channel& channel, int worker, std::span<T> values, Reduce op, const Tag& tag) {
  constexpr std::size_t kPiece = kPieceBytes / sizeof(T);
  do {
    const auto piece = values.first(std::min(values.size(), kPiece));
    channel.collective(worker, reduce_header(piece, op, tag), std::as_writable_bytes(piece));
    values = values.subspan(piece.size());
  } while (!values.empty());
}

}  // namespace

int Communicator::rank() const {
  return channel_ ? worker_ - channel_->members().first : 0;
}
int Communicator::size() const {
  return channel_ ? channel_->members().size() : 1;
}

void Communicator::all_reduce(std::span<double> values, Reduce op, const Tag& tag) const {
  if (channel_) reduce(*channel_, worker_, values, op, tag);
}

void Communicator::all_reduce(std::span<float> values, Reduce op, const Tag& tag) const {
  if (channel_) reduce(*channel_, worker_, values, op, tag);
}

void Communicator::all_reduce(std::span<std::int64_t> values, Reduce op, const Tag& tag) const {
  if (channel_) reduce(*channel_, worker_, values, op, tag);
}

void Communicator::start_all_reduce(std::span<double> values, Reduce op, const Tag& tag,
                                    std::function<void()> complete) const {
  if (!channel_) return complete ? complete() : void();
  if (values.size_bytes() > kPieceBytes) throw Error("start_all_reduce takes at most 256 MiB; use all_reduce");
  channel_->start(worker_, reduce_header(values, op, tag), std::as_writable_bytes(values), std::move(complete));
}

void Communicator::finish_all_reduce() const {
  if (channel_) channel_->finish(worker_);
}

void Communicator::broadcast(std::span<std::byte> bytes, int root, const Tag& tag) const {
  if (root < 0 || root >= size())
    throw Error("broadcast from member " + std::to_string(root) + " of " + std::to_string(size()));
  if (!channel_) return;
  do {
    const auto piece = bytes.first(std::min(bytes.size(), kPieceBytes));
    Header header = Header::make(Operation::broadcast, tag);
    header.count = static_cast<std::int64_t>(piece.size());
    header.root = channel_->members().first + root;
    channel_->collective(worker_, header, piece);
    bytes = bytes.subspan(piece.size());
  } while (!bytes.empty());
}

void Communicator::barrier(const Tag& tag) const {
  if (channel_) channel_->collective(worker_, Header::make(Operation::barrier, tag), {});
}

double Communicator::waited_seconds() const {
  return channel_ ? channel_->waited_seconds(worker_) : 0;
}

}  // namespace syncbn
