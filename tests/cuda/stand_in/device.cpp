// The device that cuda_runtime.h stands in for.

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "comm/threads/fiber.hpp"
#include "cuda_runtime.h"
#include "nvtx3/nvToolsExt.h"

namespace stand_in {

namespace {

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "stand-in device: %s (block %u,%u, thread %u,%u)\n", what, blockIdx.x, blockIdx.y, threadIdx.x,
               threadIdx.y);
  std::abort();
}

/// Where threads wait for each other.
struct Barrier {
  unsigned members = 0, arrived = 0, finished = 0, generation = 0;
  void reset(unsigned count) { members = count, arrived = finished = 0; }
  void release_if_complete() {
    if (arrived > 0 && arrived + finished == members) arrived = 0, ++generation;
  }
};

/// Threads of one block. A thread runs on a fiber; the fiber takes the next thread when its own is done, so that
/// threads which never wait need no fiber each.
class Block {
 public:
  bool backwards = false;

  void run(dim3 block, const std::function<void()>& thread) {
    shape_ = block;
    thread_ = &thread;
    count_ = block.x * block.y * block.z;
    next_ = finished_ = 0;
    block_.reset(count_);
    warps_.resize((count_ + 31) / 32);
    for (unsigned w = 0; w < warps_.size(); ++w) warps_[w].barrier.reset(std::min(32U, count_ - 32 * w));
    while (finished_ < count_) {
      bool went_on = false;
      for (std::size_t i = 0; i < carriers_.size(); ++i) went_on |= resume_if_ready(*carriers_[i]);
      if (next_ < count_ && !went_on) {
        start_carrier();
        went_on = true;
      }
      if (!went_on) fail("threads wait at different places for each other");
    }
    for (auto& carrier : carriers_) carrier->idle = true;
  }

  void wait(bool whole_block) {
    Carrier& self = *current_;
    Barrier& barrier = whole_block ? block_ : warps_[self.thread / 32].barrier;
    const unsigned generation = barrier.generation;
    ++barrier.arrived;
    barrier.release_if_complete();
    self.barrier = &barrier;
    self.generation = generation;
    while (barrier.generation == generation) self.fiber->pause();
    self.barrier = nullptr;
    use(self);
  }

  std::byte (*lanes())[8] { return warps_[current_->thread / 32].lanes[current_->exchanges++ % 2]; }
  unsigned lane() const { return current_->thread % 32; }

 private:
  struct Carrier {
    std::unique_ptr<syncbn::detail::Fiber> fiber;
    unsigned thread = 0;
    const Barrier* barrier = nullptr;  // what it waits at
    unsigned generation = 0;
    unsigned exchanges = 0;  // of its thread, among the lanes of a warp
    bool idle = true;
  };
  struct Warp {
    Barrier barrier;
    alignas(8) std::byte lanes[2][32][8];
  };

  void use(Carrier& carrier) {
    current_ = &carrier;
    const unsigned i = carrier.thread;
    threadIdx = dim3(i % shape_.x, i / shape_.x % shape_.y, i / shape_.x / shape_.y);
  }

  bool resume_if_ready(Carrier& carrier) {
    if (carrier.idle || (carrier.barrier && carrier.barrier->generation == carrier.generation)) return false;
    use(carrier);
    carrier.fiber->resume();
    return true;
  }

  void start_carrier() {
    auto idle = std::find_if(carriers_.begin(), carriers_.end(), [](const auto& c) { return c->idle; });
    if (idle == carriers_.end()) {
      auto carrier = std::make_unique<Carrier>();
      Carrier* self = carrier.get();
      carrier->fiber = std::make_unique<syncbn::detail::Fiber>([this, self] {
        for (;;) {
          run_threads(*self);
          self->idle = true;
          self->fiber->pause();
        }
      });
      idle = carriers_.insert(carriers_.end(), std::move(carrier));
    }
    (*idle)->idle = false;
    current_ = idle->get();
    (*idle)->fiber->resume();
  }

  void run_threads(Carrier& self) {
    while (next_ < count_) {
      self.thread = backwards ? count_ - 1 - next_++ : next_++;
      self.exchanges = 0;
      use(self);
      (*thread_)();
      ++finished_;
      for (Barrier* barrier : {&block_, &warps_[self.thread / 32].barrier}) {
        ++barrier->finished;
        barrier->release_if_complete();
      }
    }
  }

  dim3 shape_;
  const std::function<void()>* thread_ = nullptr;
  unsigned count_ = 0, next_ = 0, finished_ = 0;
  Barrier block_;
  std::vector<Warp> warps_;
  std::vector<std::unique_ptr<Carrier>> carriers_;
  Carrier* current_ = nullptr;
};

std::mutex one_kernel;

/// What $STAND_IN_FAILURE asks for.
class Failure {
 public:
  /// Whether this is the call that fails.
  bool is(const std::string& call) {
    const std::lock_guard lock(mutex_);
    const char* wish = std::getenv("STAND_IN_FAILURE");
    if (wish_ != (wish ? wish : "")) {
      wish_ = wish ? wish : "";
      broken_ = false;
      const std::size_t space = wish_.find(' ');
      call_ = wish_.substr(0, space);
      left_ = space == std::string::npos ? 0 : std::stoi(wish_.substr(space));
    }
    return call == call_ && --left_ == 0;
  }
  void break_device() { broken_ = true; }
  bool broken() const { return broken_; }

 private:
  std::mutex mutex_;
  std::string wish_, call_;
  int left_ = 0;
  std::atomic<bool> broken_ = false;
} failure;

/// The calling thread's, since fibers stay on the thread that has made them. Called under one_kernel. Kept until the
/// process ends: its fibers never return.
Block& the_block() {
  static auto& all = *new std::vector<Block*>;
  thread_local Block* mine = nullptr;
  if (!mine) {
    mine = new Block;
    all.push_back(mine);
  }
  return *mine;
}

}  // namespace

cudaError_t outcome(const char* call) {
  if (failure.is(call)) return cudaErrorNotSupported;
  return failure.broken() ? cudaErrorIllegalAddress : cudaSuccess;
}

void run(dim3 grid, dim3 block, const std::function<void()>& thread) {
  const std::lock_guard lock(one_kernel);
  if (failure.is("kernel")) failure.break_device();
  if (block.x * block.y * block.z > 1024) fail("more than 1024 threads in a block");
  the_block().backwards = !the_block().backwards;
  gridDim = grid;
  blockDim = block;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = dim3(x, y, z);
        the_block().run(block, thread);
      }
    }
  }
}

void wait_for_block() {
  the_block().wait(true);
}
void wait_for_warp() {
  the_block().wait(false);
}
std::byte (*next_lanes())[8] {
  return the_block().lanes();
}
unsigned lane() {
  return the_block().lane();
}

}  // namespace stand_in

const char* cudaGetErrorString(cudaError_t code) {
  switch (code) {
    case cudaSuccess:
      return "no error";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorIllegalAddress:
      return "an illegal memory access was encountered";
    default:
      return "operation not supported";
  }
}
const char* cudaGetErrorName(cudaError_t code) {
  switch (code) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorIllegalAddress:
      return "cudaErrorIllegalAddress";
    default:
      return "cudaErrorNotSupported";
  }
}
cudaError_t cudaGetLastError() {
  return stand_in::outcome("cudaGetLastError");
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {"stand-in", 9, 0, std::size_t{1} << 30};
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
/// All processes share one, unless $STAND_IN_DEVICES says otherwise.
cudaError_t cudaDeviceGetPCIBusId(char* address, int size, int) {
  std::snprintf(address, static_cast<std::size_t>(size), "stand-in:%d",
                std::getenv("STAND_IN_DEVICES") ? ::getpid() : 0);
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int) {
  return cudaSuccess;
}
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) {
  *pool = nullptr;
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) {
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *free = *total = std::size_t{1} << 30;
  return cudaSuccess;
}

namespace {

std::mutex ranges_mutex;
std::map<nvtxRangeId_t, std::string> ranges;

}  // namespace

nvtxRangeId_t nvtxRangeStartA(const char* name) {
  static nvtxRangeId_t number = 0;
  const std::lock_guard lock(ranges_mutex);
  if (std::getenv("STAND_IN_RANGES")) ranges[++number] = name;
  return number;
}
void nvtxRangeEnd(nvtxRangeId_t range) {
  const std::lock_guard lock(ranges_mutex);
  const auto found = ranges.find(range);
  if (found == ranges.end()) return;
  if (const char* path = std::getenv("STAND_IN_RANGES")) std::ofstream(path, std::ios::app) << found->second << '\n';
  ranges.erase(found);
}
