#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

namespace syncbn {

/// What an exchange between workers needs of the device of their rank, where the values lie. Every local worker has a
/// queue of its own there, in whose order its work is done; so has the exchange (kExchange). A mark is a place in a
/// queue; calls for different queues may come from different threads at once.
class ExchangeDevice {
 public:
  static constexpr int kExchange = -1;
  virtual ~ExchangeDevice() = default;

  /// Before any other call from a thread that no worker runs on.
  virtual void prepare_thread() = 0;

  // ---- before any of the calls below ----
  /// Further marks; the number of the first.
  virtual int make_marks(int count) = 0;
  /// Zeroed memory, which lives as long as this object.
  virtual void* allocate(std::size_t bytes) = 0;
  /// Makes copies from and to this memory of the processor's fast as long as the result lives, if that is possible.
  virtual std::shared_ptr<void> pin(void* data, std::size_t bytes) = 0;
  /// Tells the devices of a host apart.
  virtual std::string device_name() = 0;
  virtual int device_index() = 0;
  /// The exchange's queue as CUDA knows it (a cudaStream_t).
  virtual void* native_queue() = 0;

  /// The mark is behind all that has been queued for `queue` so far.
  virtual void set(int mark, int queue) = 0;
  /// What is queued for `queue` from now on comes after the mark.
  virtual void follow(int mark, int queue) = 0;
  /// Whether the mark has been passed.
  virtual bool passed(int mark) = 0;

  virtual void copy(const void* from, void* to, std::size_t bytes, int queue) = 0;
  /// From and to the processor's memory, which must stay untouched until a mark set behind it has been passed.
  virtual void download(const void* from, void* to, std::size_t bytes, int queue) = 0;
  virtual void upload(const void* from, void* to, std::size_t bytes, int queue) = 0;
  /// to = left + right; `to` may be one of them.
  virtual void add(const float* left, const float* right, float* to, std::int64_t count, int queue) = 0;
  /// For each pair in turn, row `first` += row `second`: the first `count` values of rows `stride` values apart.
  virtual void add_rows(double* rows, std::int64_t stride, std::span<const std::pair<int, int>> pairs,
                        std::int64_t count, int queue) = 0;
};

/// Direct exchange between the devices of all ranks, in the order of the exchange's queue.
class DevicePeers {
 public:
  struct Transfer {
    int peer;  ///< a rank
    void* data;
    std::size_t bytes;
  };
  virtual ~DevicePeers() = default;
  /// All at once; between two ranks in the order given.
  virtual void exchange(std::span<const Transfer> sends, std::span<const Transfer> receives) = 0;
  /// values = sum over the ranks, in an order of the library's own.
  virtual void all_reduce(float* values, std::int64_t count) = 0;
  /// Whether what was asked for last has been queued; only then may more be. Throws Error when another rank is lost.
  virtual bool queued() = 0;
  /// Ends what is under way, so that the queue goes on; nothing may be asked for afterwards.
  virtual void abandon() noexcept = 0;
};

}  // namespace syncbn
