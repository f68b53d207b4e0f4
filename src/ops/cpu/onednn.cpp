#include "ops/cpu/onednn.hpp"

#include <dnnl_debug.h>
#include <omp.h>

#include <algorithm>
#include <string_view>

#include "ops/cpu/factories.hpp"

namespace syncbn::ops::cpu {

using dnnl::memory;

OneThread::OneThread() : before_(omp_get_max_threads()) {
  omp_set_num_threads(1);
}

OneThread::~OneThread() {
  omp_set_num_threads(before_);
}

Layout preferred_layout(std::int64_t channels) {
  constexpr std::int64_t kImageChannels = 4;
  if (channels <= kImageChannels) return Layout::channels_first;
#if defined(__x86_64__)
  constexpr unsigned avx512 = dnnl_cpu_isa_avx512_core;
  const auto isa = static_cast<unsigned>(dnnl::get_effective_cpu_isa());
  return (isa & avx512) == avx512 ? Layout::blocked16 : Layout::blocked8;
#else  // convolutions of plain activations are matrix products, those of blocked ones oneDNN's reference code
  return Layout::channels_first;
#endif
}

std::string onednn_version() {
  constexpr std::string_view kPrefix = "cpu_isa_";
  const dnnl_version_t& v = *dnnl::version();
  const std::string_view isa = dnnl_cpu_isa2str(static_cast<dnnl_cpu_isa_t>(dnnl::get_effective_cpu_isa()));
  return "oneDNN " + std::to_string(v.major) + "." + std::to_string(v.minor) + "." + std::to_string(v.patch) + " for " +
         std::string(isa.substr(isa.starts_with(kPrefix) ? kPrefix.size() : 0));
}

memory::format_tag tag_of(Layout layout) {
  switch (layout) {
    case Layout::channels_first:
      return memory::format_tag::nchw;
    case Layout::channels_last:
      return memory::format_tag::nhwc;
    case Layout::blocked8:
      return memory::format_tag::nChw8c;
    case Layout::blocked16:
      return memory::format_tag::nChw16c;
  }
  return memory::format_tag::undef;
}

memory::desc activation_desc(std::int64_t n, std::int64_t c, std::int64_t h, std::int64_t w, Layout layout) {
  return {{n, c, h, w}, memory::data_type::f32, tag_of(layout)};
}

void require_layout(const Tensor& t, Layout layout, const char* kernel) {
  if (t.type == DataType::f32 && t.layout == layout) return;
  throw Error(std::string(kernel) + " wants f32 tensors in layout " + name_of(layout) + ", got " + name_of(t.type) +
              " in " + name_of(t.layout) + "; reorder first");
}

Task::Task(const dnnl::engine& engine, dnnl::primitive primitive, const memory::desc& scratchpad,
           std::initializer_list<Argument> arguments)
    : primitive_(std::move(primitive)), stream_(engine) {
  memories_.reserve(arguments.size() + 1);
  const auto append = [&](int argument, memory memory) {
    memories_.push_back(std::move(memory));
    arguments_.push_back({argument, memories_.back().get()});
  };
  for (const auto& [argument, desc] : arguments) {
    if (desc.get_size() > 0) append(argument, memory(desc, engine, nullptr));
  }
  if (scratchpad.get_size() > 0) append(DNNL_ARG_SCRATCHPAD, memory(scratchpad, engine));
}

dnnl_exec_arg_t& Task::find(int argument) {
  return *std::find_if(arguments_.begin(), arguments_.end(), [&](const auto& a) { return a.arg == argument; });
}

void Task::set(int argument, const void* data) {
  const auto index = static_cast<std::size_t>(&find(argument) - arguments_.data());
  memories_[index].set_data_handle(const_cast<void*>(data));
}

void Task::run() {
  const OneThread one_thread;
  dnnl::error::wrap_c_api(
      dnnl_primitive_execute(primitive_.get(), stream_.get(), static_cast<int>(arguments_.size()), arguments_.data()),
      "could not execute a primitive");
  stream_.wait();
}

dnnl::primitive_attr task_attributes() {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attributes;
}

}  // namespace syncbn::ops::cpu
