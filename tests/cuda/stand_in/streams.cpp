// The streams, events and memory that cuda_runtime.h stands in for. What is queued in a stream is done as late as CUDA
// allows, or at some time before, by chance: when somebody waits for it, or another stream comes to a place that must
// be behind it. So a missing wait shows up in results.

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "cuda_runtime.h"

struct StandInStream {
  struct Work {
    std::function<bool()> run;       // again and again until it says that it is done
    StandInStream* other = nullptr;  // or a place that must be passed first
    std::uint64_t place = 0;
  };
  std::deque<Work> work;
  std::uint64_t queued = 0, done = 0;
  StandInGraph* capture = nullptr;  // what becomes of it now
};

struct StandInEvent {
  StandInStream* stream = nullptr;
  std::uint64_t place = 0;
  StandInGraph* capture = nullptr;                 // in which it was recorded
  std::map<StandInStream*, std::uint64_t> behind;  // of a capture: the places that come before it
};

/// What streams were given while they were captured. Places count from its beginning.
struct StandInGraph {
  struct Lane {
    std::vector<StandInStream::Work> work;
    std::map<StandInStream*, std::uint64_t> behind;
  };
  StandInStream* origin = nullptr;
  std::map<StandInStream*, Lane> lanes;
  bool spoiled = false;
};

/// Has streams of its own, one for each lane.
struct StandInGraphExec {
  StandInGraph graph;
  std::map<StandInStream*, StandInStream*> streams;
};

namespace {

/// Held while the device's state is looked at, by one thread as often as it likes.
class DeviceLock {
 public:
  void lock() {
    mutex_.lock();
    ++depth_;
  }
  void unlock() {
    --depth_;
    mutex_.unlock();
  }
  /// Lets other threads at the device for a moment.
  void breathe() {
    const int depth = depth_;
    for (int i = 0; i < depth; ++i) unlock();
    ::usleep(50);
    for (int i = 0; i < depth; ++i) lock();
  }

 private:
  std::recursive_mutex mutex_;
  int depth_ = 0;
};

DeviceLock& device = *new DeviceLock;  // threads may use it until the process ends

/// Streams stay until the process ends, because events may outlive them.
std::vector<std::unique_ptr<StandInStream>>& streams() {
  static auto& all = *new std::vector<std::unique_ptr<StandInStream>>;
  return all;
}

/// Does the next piece of work of a stream, or of the one that it waits for. False if that must wait for other
/// processes.
bool step(StandInStream& stream) {
  if (stream.work.empty()) return true;
  StandInStream::Work& next = stream.work.front();
  if (next.other && next.other->done < next.place) return step(*next.other);
  if (next.run && !next.run()) return false;
  stream.work.pop_front();
  ++stream.done;
  return true;
}

/// Streams run side by side: while one waits for other processes the others go on.
void step_or_others(StandInStream& stream) {
  if (step(stream)) return;
  for (const auto& other : streams()) step(*other);
  device.breathe();
}

/// Other processes wait for this one's network even if nobody here waits for anything.
void keep_going() {
  std::thread([] {
    for (;;) {
      {
        const std::lock_guard lock(device);
        for (const auto& stream : streams()) step(*stream);
      }
      ::usleep(500);
    }
  }).detach();
}

void run_until(StandInStream& stream, std::uint64_t place) {
  while (stream.done < place) step_or_others(stream);
}

/// Some stream may go some steps further at any time.
void go_on_by_chance() {
  static std::minstd_rand random(1);
  StandInStream& stream = *streams()[random() % streams().size()];
  for (auto steps = random() % 3; steps > 0; --steps) step(stream);
}

void push(StandInStream& stream, StandInStream::Work work) {
  const std::lock_guard lock(device);
  if (stream.capture) return stream.capture->lanes[&stream].work.push_back(std::move(work));
  stream.work.push_back(std::move(work));
  ++stream.queued;
  go_on_by_chance();
}

StandInStream* make_stream() {
  const std::lock_guard lock(device);
  return streams().emplace_back(std::make_unique<StandInStream>()).get();
}

/// Graphs stay until the process ends, because events may name them.
std::vector<std::unique_ptr<StandInGraph>>& graphs() {
  static auto& all = *new std::vector<std::unique_ptr<StandInGraph>>;
  return all;
}

bool under_way(const StandInGraph* capture) {
  return std::any_of(streams().begin(), streams().end(), [&](const auto& s) { return s->capture == capture; });
}

/// A stream in a capture comes behind an event of that capture, and so becomes a part of it.
cudaError_t follow_in_capture(StandInStream& stream, const StandInEvent& event) {
  if (!event.capture) return cudaErrorStreamCaptureIsolation;
  if (!under_way(event.capture)) return cudaErrorCapturedEvent;
  if (stream.capture && stream.capture != event.capture) return cudaErrorStreamCaptureMerge;
  stream.capture = event.capture;
  StandInGraph::Lane& lane = stream.capture->lanes[&stream];
  for (const auto& [other, place] : event.behind) lane.behind[other] = std::max(lane.behind[other], place);
  lane.work.push_back({{}, event.stream, event.place});
  return cudaSuccess;
}

/// Page-locked memory: from the first byte to the end.
std::map<const std::byte*, const std::byte*>& pinned() {
  static auto& all = *new std::map<const std::byte*, const std::byte*>;
  return all;
}

bool is_pinned(const void* data) {
  const auto* place = static_cast<const std::byte*>(data);
  const auto behind = pinned().upper_bound(place);
  return behind != pinned().begin() && place < std::prev(behind)->second;
}

void pin(void* data, std::size_t bytes) {
  const std::lock_guard lock(device);
  pinned()[static_cast<std::byte*>(data)] = static_cast<std::byte*>(data) + bytes;
}

void unpin(void* data) {
  const std::lock_guard lock(device);
  pinned().erase(static_cast<std::byte*>(data));
}

cudaError_t allocate(void** data, std::size_t bytes) {
  constexpr std::size_t kLargest = std::size_t{1} << 40;
  return bytes > kLargest || ::posix_memalign(data, 256, bytes) != 0 ? cudaErrorMemoryAllocation : cudaSuccess;
}

}  // namespace

void stand_in::queue(cudaStream_t stream, std::function<void()> work) {
  push(*stream, {[work = std::move(work)] {
    work();
    return true;
  }});
}

void stand_in::queue_until(cudaStream_t stream, std::function<bool()> work) {
  static std::once_flag first;
  std::call_once(first, keep_going);
  push(*stream, {std::move(work)});
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* lowest, int* highest) {
  *lowest = 0, *highest = -5;
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) {
  *stream = make_stream();
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  {
    const std::lock_guard lock(device);
    run_until(*stream, stream->queued);  // of a stream in a capture, what came before it
    if (!stream->capture) return stand_in::outcome("cudaStreamSynchronize");
    if (std::exchange(stream->capture->spoiled, true)) return cudaErrorStreamCaptureUnsupported;
  }
  ::usleep(200'000);  // others meet that first
  return cudaErrorStreamCaptureUnsupported;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  return cudaStreamSynchronize(stream);
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event) {
  const std::lock_guard lock(device);
  if (event->stream && (stream->capture || event->capture)) return follow_in_capture(*stream, *event);
  if (event->stream) push(*stream, {{}, event->stream, event->place});
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  const std::lock_guard lock(device);
  if (stream->capture) return cudaErrorStreamCaptureUnsupported;
  stream->capture = graphs().emplace_back(std::make_unique<StandInGraph>()).get();
  stream->capture->origin = stream;
  return stand_in::outcome("cudaStreamBeginCapture");
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const std::lock_guard lock(device);
  StandInGraph* capture = stream->capture;
  if (!capture || capture->origin != stream) return cudaErrorStreamCaptureUnsupported;
  for (const auto& s : streams())
    if (s->capture == capture) s->capture = nullptr;
  for (const auto& [other, lane] : capture->lanes)
    if (other != stream && capture->lanes[stream].behind[other] < lane.work.size())
      return cudaErrorStreamCaptureUnjoined;
  *graph = capture;
  return stand_in::outcome("cudaStreamEndCapture");
}
cudaError_t cudaGraphDestroy(cudaGraph_t) {
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  const std::lock_guard lock(device);
  *exec = new StandInGraphExec{*graph, {}};
  for (const auto& [stream, lane] : graph->lanes) (*exec)->streams[stream] = make_stream();
  return stand_in::outcome("cudaGraphInstantiateWithFlags") == cudaSuccess ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  const std::lock_guard lock(device);
  if (stream->capture) return cudaErrorStreamCaptureUnsupported;
  const cudaError_t code = stand_in::outcome("cudaGraphLaunch");
  if (code != cudaSuccess) return code;
  std::map<StandInStream*, std::uint64_t> begin;
  const std::uint64_t before = stream->queued;
  for (const auto& [captured, lane] : exec->streams) {
    push(*lane, {{}, stream, before});
    begin[captured] = lane->queued;
  }
  for (const auto& [captured, lane] : exec->graph.lanes)
    for (StandInStream::Work work : lane.work) {
      if (work.other) {
        work.place += begin.at(work.other);
        work.other = exec->streams.at(work.other);
      }
      push(*exec->streams.at(captured), std::move(work));
    }
  for (const auto& [captured, lane] : exec->streams) push(*stream, {{}, lane, lane->queued});
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new StandInEvent;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const std::lock_guard lock(device);
  if (stream->capture && stream->capture->spoiled) return cudaErrorStreamCaptureInvalidated;
  if (stream->capture) {
    StandInGraph::Lane& lane = stream->capture->lanes[stream];
    lane.behind[stream] = lane.work.size();
    *event = {stream, lane.work.size(), stream->capture, lane.behind};
  } else {
    *event = {stream, stream->queued, nullptr, {}};
  }
  return stand_in::outcome("cudaEventRecord");
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const std::lock_guard lock(device);
  if (event->capture) return cudaErrorCapturedEvent;
  if (event->stream) run_until(*event->stream, event->place);
  return stand_in::outcome("cudaEventSynchronize");
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  const std::lock_guard lock(device);
  if (event->capture) return cudaErrorCapturedEvent;
  if (!event->stream || event->stream->done >= event->place) return stand_in::outcome("cudaEventQuery");
  step_or_others(*event->stream);
  return cudaErrorNotReady;
}

cudaError_t cudaMallocAsync(void** data, std::size_t bytes, cudaStream_t stream) {
  if (stand_in::outcome("cudaMallocAsync") != cudaSuccess) return cudaErrorMemoryAllocation;
  if (stream->capture) return cudaErrorStreamCaptureUnsupported;  // CUDA would allow it, but no graph of ours wants it
  const cudaError_t code = allocate(data, bytes);
  if (code != cudaSuccess) return code;
  // NaN: nobody may count on what is there.
  stand_in::queue(stream, [place = *data, bytes] { std::memset(place, 0xFF, bytes); });
  return code;
}
cudaError_t cudaFreeAsync(void* data, cudaStream_t stream) {
  stand_in::queue(stream, [data] { std::free(data); });
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** data, std::size_t bytes) {
  const cudaError_t code = allocate(data, bytes);
  if (code == cudaSuccess) pin(*data, bytes);
  return code;
}
cudaError_t cudaFreeHost(void* data) {
  unpin(data);
  std::free(data);
  return cudaSuccess;
}
cudaError_t cudaHostRegister(void* data, std::size_t bytes, unsigned) {
  pin(data, bytes);
  return cudaSuccess;
}
cudaError_t cudaHostUnregister(void* data) {
  unpin(data);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  const std::lock_guard lock(device);
  // CUDA would allow it, and read the same place again at each launch.
  if (stream->capture && kind != cudaMemcpyDeviceToDevice) return cudaErrorStreamCaptureUnsupported;
  if (kind == cudaMemcpyHostToDevice && !is_pinned(from)) {  // has been read when the call returns
    const auto* first = static_cast<const std::byte*>(from);
    stand_in::queue(stream, [to, values = std::vector<std::byte>(first, first + bytes)] {
      std::memcpy(to, values.data(), values.size());
    });
    return cudaSuccess;
  }
  stand_in::queue(stream, [to, from, bytes] { std::memcpy(to, from, bytes); });
  if (kind == cudaMemcpyDeviceToHost && !is_pinned(to)) return cudaStreamSynchronize(stream);
  return stand_in::outcome("cudaMemcpyAsync");
}
cudaError_t cudaMemsetAsync(void* data, int value, std::size_t bytes, cudaStream_t stream) {
  stand_in::queue(stream, [data, value, bytes] { std::memset(data, value, bytes); });
  return cudaSuccess;
}
