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

/// Memory for a result. `keep`, if set, is also owned by messages that may still write there after an operation has
/// failed.
struct Target {
  std::shared_ptr<Buffer> keep;
  std::byte* data = nullptr;
};

/// The part of one communicator's collectives that takes place between ranks. One operation at a time; start() and
/// poll() are never called concurrently.
class Link {
 public:
  virtual ~Link() = default;
  /// Begins the operation that `header` describes. `blocks`: values of this rank's tree nodes (see fold_leaves), in
  /// ascending order; they are used as scratch and must live until poll() returns true. For a broadcast: the root's
  /// bytes on its rank, empty elsewhere. `result`: memory for header.bytes(); in_memory() links write there in poll()
  /// only, and it may be the block itself.
  virtual void start(const Header& header, std::span<std::byte* const> blocks, const Target& result) = 0;
  /// Advances the operation without blocking; returns true once it is complete. Throws Error when another rank's header
  /// differs.
  virtual bool poll() = 0;
  /// Whether operations only use shared memory: poll() is then cheap, and no thread needs to wait for a network.
  virtual bool in_memory() const { return false; }
  /// Called after a failure: releases those who wait for an operation that will never end.
  virtual void give_up() noexcept {}
  /// A number that changes whenever poll() has made progress: a reason to poll again at once.
  virtual std::uint64_t progress() const { return 0; }
  /// The ranks whose messages have not arrived ("rank 2 (node3, workers 4-5)").
  virtual std::string missing() const = 0;
  /// How many other ranks lie between this one and the missing ranks: nearer ranks know better which rank is missing.
  virtual int hops() const { return 0; }
};

/// A failure that another rank has announced.
struct RemoteFailure {
  std::string message;
  ExitCode code;
};

RemoteFailure describe_failure(const std::exception_ptr& failure);

/// The interface to the messages between ranks.
class Transport {
 public:
  virtual ~Transport() = default;
  /// Opens message stream `channel` among the ranks that host `members`; null when all of them are on this rank.
  /// Collective over those ranks.
  virtual std::unique_ptr<Link> connect(int channel, const IndexRange& members) = 0;
  /// Makes a transport among the same ranks with message streams of its own. Collective over ranks.
  virtual std::unique_ptr<Transport> duplicate() = 0;
  /// Maps the same zeroed memory at `at`, an address range reserved before, on all of `ranks`, which are on this
  /// machine. If one of them cannot, returns false on all of them and changes nothing. Collective over them.
  virtual bool share(const IndexRange& ranks, std::byte* at, std::size_t bytes) = 0;
  /// Tells the other ranks that this one has failed, so that they need not wait for the time-out.
  virtual void announce(const RemoteFailure& failure) noexcept = 0;
  virtual std::optional<RemoteFailure> announced() = 0;
  /// Leaves its resources to the end of the process: some messages may never be received.
  virtual void abandon() noexcept = 0;
  virtual void abort(int code) = 0;
};

/// The transport of a world of one rank, without MPI.
std::unique_ptr<Transport> single_process();

}  // namespace syncbn::detail
