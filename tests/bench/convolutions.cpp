#include "bench/convolutions.hpp"

#include "nn/model_state.hpp"
#include "ops/cpu/onednn.hpp"

namespace syncbn::bench {

using dnnl::memory;
using ops::cpu::Task;

/// Every tensor has memory of its own, as in a training, where all activations are kept for the backward pass.
struct ConvolutionsOnly::Layer {
  Layer(const ops::Conv2dGeometry& g, std::int64_t n, bool first) {
    const auto any = [](memory::dims dims) {
      return memory::desc(std::move(dims), memory::data_type::f32, memory::format_tag::any);
    };
    const memory::desc x = any({n, g.c_in, g.h_in, g.w_in}), y = any({n, g.c_out, g.h_out, g.w_out}),
                       w = any({g.c_out, g.c_in, g.kernel_h, g.kernel_w});
    const memory::dims strides{g.stride, g.stride}, before{g.padding, g.padding};
    const memory::dims after{(g.h_out - 1) * g.stride + g.kernel_h - g.h_in - g.padding,
                             (g.w_out - 1) * g.stride + g.kernel_w - g.w_in - g.padding};
    const auto direct = dnnl::algorithm::convolution_direct;
    const auto pd = ops::cpu::describe_forward<dnnl::convolution_forward>(engine, dnnl::prop_kind::forward_training,
                                                                          direct, x, w, y, strides, before, after);
    add({pd.src_desc(), pd.weights_desc(), pd.dst_desc()}, {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST}, pd);
    if (!first) {
      const auto data = ops::cpu::describe_backward<dnnl::convolution_backward_data>(engine, pd, direct, x, w, y,
                                                                                     strides, before, after);
      add({data.diff_src_desc(), data.weights_desc(), data.diff_dst_desc()},
          {DNNL_ARG_DIFF_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_DST}, data);
    }
    const auto weights = ops::cpu::describe_backward<dnnl::convolution_backward_weights>(engine, pd, direct, x, w, y,
                                                                                         strides, before, after);
    add({weights.src_desc(), weights.diff_weights_desc(), weights.diff_dst_desc()},
        {DNNL_ARG_SRC, DNNL_ARG_DIFF_WEIGHTS, DNNL_ARG_DIFF_DST}, weights);
  }

  template <class PrimitiveDesc>
  void add(const std::vector<memory::desc>& descs, const std::vector<int>& arguments, const PrimitiveDesc& pd) {
    tasks.emplace_back(engine, pd,
                       std::initializer_list<Task::Argument>{
                           {arguments[0], descs[0]}, {arguments[1], descs[1]}, {arguments[2], descs[2]}});
    for (std::size_t i = 0; i < descs.size(); ++i) {
      buffers.emplace_back(descs[i].get_size());
      tasks.back().set(arguments[i], buffers.back().data());
    }
  }

  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  std::vector<Buffer> buffers;
  std::vector<Task> tasks;  // forward, gradient of the input, gradient of the weights
};

ConvolutionsOnly::ConvolutionsOnly(const Model& model, std::int64_t n) {
  const ops::cpu::OneThread one_thread;
  for (std::size_t l = 0; l < model.layers.size(); ++l) {
    if (model.layers[l].type != LayerType::conv2d) continue;
    layers_.push_back(std::make_unique<Layer>(conv2d_geometry(model, static_cast<int>(l)), n, layers_.empty()));
  }
}

ConvolutionsOnly::~ConvolutionsOnly() = default;

void ConvolutionsOnly::step(const std::function<void()>& between) {
  for (auto& layer : layers_) {
    layer->tasks.front().run();
    between();
  }
  for (auto layer = layers_.rbegin(); layer != layers_.rend(); ++layer) {
    between();
    for (std::size_t i = 1; i < (*layer)->tasks.size(); ++i) (*layer)->tasks[i].run();
  }
}

}  // namespace syncbn::bench
