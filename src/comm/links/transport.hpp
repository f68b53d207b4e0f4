#pragma once

#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "comm/links/header.hpp"
#include "comm/order/topology.hpp"
#include "syncbn/core/error.hpp"
#include "syncbn/core/tensor.hpp"

namespace syncbn::detail {

/// Memory for a result. `keep`, if any, is shared with the messages that may still write there when an operation fails.
struct Target {
  std::shared_ptr<Buffer> keep;
  std::byte* data = nullptr;
};

/// The part of one communicator's collectives that goes between ranks. One operation at a time; start() and poll() are
/// never called concurrently.
class Link {
 public:
  virtual ~Link() = default;
  /// Begins the operation that `header` describes. `blocks`: values of the tree nodes that this rank brings (see
  /// fold_leaves), in ascending order; they are used as scratch and must live until poll() returns true. For a
  /// broadcast: the root's bytes on its rank, else empty. `result`: room for header.bytes(); in_memory() links write
  /// there from poll() only, and it may be the block itself.
  virtual void start(const Header& header, std::span<std::byte* const> blocks, const Target& result) = 0;
  /// Goes on with the operation without blocking; true once it is complete. Throws Error when another rank's header
  /// differs.
  virtual bool poll() = 0;
  /// Whether the operations are a matter of memory alone: poll() is then cheap, and no thread need wait for a network.
  virtual bool in_memory() const { return false; }
  /// After a failure: frees whoever waits for an operation that will never end.
  virtual void give_up() noexcept {}
  /// Changes whenever poll() has come a step further: a reason to look again at once.
  virtual std::uint64_t progress() const { return 0; }
  /// The ranks whose messages have not arrived ("rank 2 (node3, workers 4-5)").
  virtual std::string missing() const = 0;
  /// By way of how many other ranks this one waits for those that are missing: a rank that is nearer knows better.
  virtual int hops() const { return 0; }
};

/// A failure that another rank has announced.
struct RemoteFailure {
  std::string message;
  ExitCode code;
};

RemoteFailure describe_failure(const std::exception_ptr& failure);

/// What the engine needs from the machine between ranks.
class Transport {
 public:
  virtual ~Transport() = default;
  /// Message stream `channel` among the ranks that host `members`; null when they are all here. Collective over those
  /// ranks.
  virtual std::unique_ptr<Link> connect(int channel, const IndexRange& members) = 0;
  /// The same ranks with message streams of their own. Collective over ranks.
  virtual std::unique_ptr<Transport> duplicate() = 0;
  /// Maps the same zeroed memory at `at`, reserved addresses, on all of `ranks`, which are on this machine. False on
  /// all of them, and nothing has changed, if one of them does not get it. Collective over them.
  virtual bool share(const IndexRange& ranks, std::byte* at, std::size_t bytes) = 0;
  /// Tells the other ranks that this one is lost, so that they need not wait for the time-out.
  virtual void announce(const RemoteFailure& failure) noexcept = 0;
  virtual std::optional<RemoteFailure> announced() = 0;
  /// Leaves its resources to the end of the process: there may be messages under way that nobody will take.
  virtual void abandon() noexcept = 0;
  virtual void abort(int code) = 0;
};

/// A world of one rank, without MPI.
std::unique_ptr<Transport> single_process();

}  // namespace syncbn::detail
