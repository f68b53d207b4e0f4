#pragma once

// Shared parts of the oneDNN kernels. Everything runs on one thread: a worker computes alone, and results must not
// depend on the number of threads.

#include <initializer_list>
#include <oneapi/dnnl/dnnl.hpp>
#include <string>
#include <utility>
#include <vector>

#include "syncbn/core/error.hpp"
#include "syncbn/core/tensor.hpp"

namespace syncbn::ops::cpu {

/// Limits OpenMP's parallel regions to one thread during its lifetime: oneDNN would start several both where a
/// primitive is made, which fixes how its work is split, and where it runs.
class OneThread {
 public:
  OneThread();
  ~OneThread();
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int before_;
};

dnnl::memory::format_tag tag_of(Layout layout);
/// Describes f32 activations [n, c, h, w].
dnnl::memory::desc activation_desc(std::int64_t n, std::int64_t c, std::int64_t h, std::int64_t w, Layout layout);
/// Throws Error when the tensor is not f32 of this layout.
void require_layout(const Tensor& t, Layout layout, const char* kernel);

/// A primitive with its arguments, which are made once; runs only change their pointers. Uses its own scratch memory,
/// because oneDNN's is bound to the thread that made the primitive.
class Task {
 public:
  using Argument = std::pair<int, dnnl::memory::desc>;

  Task() = default;
  template <class PrimitiveDesc>
  Task(const dnnl::engine& engine, const PrimitiveDesc& pd, std::initializer_list<Argument> arguments)
      : Task(engine, dnnl::primitive(pd.get()), pd.scratchpad_desc(), arguments) {}

  Task(Task&&) = default;
  Task& operator=(Task&&) = default;

  explicit operator bool() const { return static_cast<bool>(primitive_); }
  void set(int argument, const void* data);
  void run();

 private:
  Task(const dnnl::engine& engine, dnnl::primitive primitive, const dnnl::memory::desc& scratchpad,
       std::initializer_list<Argument> arguments);
  dnnl_exec_arg_t& find(int argument);

  dnnl::primitive primitive_;
  dnnl::stream stream_;
  std::vector<dnnl::memory> memories_;
  std::vector<dnnl_exec_arg_t> arguments_;
};

/// Attributes of every primitive here.
dnnl::primitive_attr task_attributes();

/// Describes a forward primitive; `arguments` are those of its kind. oneDNN 2 needs them as a separate object.
template <class Primitive, class... Arguments>
typename Primitive::primitive_desc describe_forward(const dnnl::engine& engine, const Arguments&... arguments) {
  if constexpr (DNNL_VERSION_MAJOR < 3)
    return {typename Primitive::desc(arguments...), task_attributes(), engine};
  else
    return {engine, arguments..., task_attributes()};
}

/// The same for a backward primitive, which belongs to a forward one.
template <class Primitive, class Forward, class... Arguments>
typename Primitive::primitive_desc describe_backward(const dnnl::engine& engine, const Forward& forward,
                                                     const Arguments&... arguments) {
  if constexpr (DNNL_VERSION_MAJOR < 3)
    return {typename Primitive::desc(arguments...), task_attributes(), engine, forward};
  else
    return {engine, arguments..., forward, task_attributes()};
}

/// Runs `make` on one thread and turns oneDNN's exceptions into Error.
template <class Make>
decltype(auto) make_with_onednn(const std::string& what, Make make) {
  const OneThread one_thread;
  try {
    return make();
  } catch (const dnnl::error& e) {
    throw Error("oneDNN cannot make " + what + ": " + e.what() + "; check the layer's sizes");
  }
}

}  // namespace syncbn::ops::cpu
