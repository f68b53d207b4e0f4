// The batch norm kernels on one core: share of the roofline (the same passes over memory with nothing to compute), and
// against oneDNN's batch normalization.

#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>
#include <tuple>

#include "bench/batch_norm_layer.hpp"
#include "bench/measure.hpp"
#include "ops/cpu/factories.hpp"
#include "ops/cpu/onednn.hpp"

namespace syncbn::bench {
namespace {

/// oneDNN 2 wants the description of the data once, oneDNN 3 for input and output.
auto in_and_out(const dnnl::memory::desc& desc) {
  if constexpr (DNNL_VERSION_MAJOR < 3)
    return std::tuple(desc);
  else
    return std::tuple(desc, desc);
}

/// oneDNN's batch normalization of the same data.
class OneDnn {
 public:
  OneDnn(const Layer& layer, Fused fused) {
    const Tensor& x = layer.x();
    const auto& shape = x.shape;
    const auto desc = ops::cpu::activation_desc(shape.n(), shape.c(), shape.h(), shape.w(), x.layout);
    const auto flags =
        fused == Fused::relu ? dnnl::normalization_flags::fuse_norm_relu : dnnl::normalization_flags::none;
    const ops::cpu::OneThread one_thread;
    const auto forward = std::apply(
        [&](const auto&... descs) {
          return ops::cpu::describe_forward<dnnl::batch_normalization_forward>(
              engine_, dnnl::prop_kind::forward_training, descs..., 1e-5f, flags);
        },
        in_and_out(desc));
    const auto backward = std::apply(
        [&](const auto&... descs) {
          return ops::cpu::describe_backward<dnnl::batch_normalization_backward>(
              engine_, forward, dnnl::prop_kind::backward_data, desc, descs..., 1e-5f, flags);
        },
        in_and_out(desc));
    workspace_ = dnnl::memory(forward.workspace_desc(), engine_);
    mean_ = dnnl::memory(forward.mean_desc(), engine_), variance_ = dnnl::memory(forward.mean_desc(), engine_);
    forward_ = ops::cpu::Task(engine_, forward,
                              {{DNNL_ARG_SRC, desc},
                               {DNNL_ARG_DST, desc},
                               {DNNL_ARG_MEAN, mean_.get_desc()},
                               {DNNL_ARG_VARIANCE, mean_.get_desc()},
                               {DNNL_ARG_WORKSPACE, workspace_.get_desc()}});
    backward_ = ops::cpu::Task(engine_, backward,
                               {{DNNL_ARG_SRC, desc},
                                {DNNL_ARG_DIFF_DST, desc},
                                {DNNL_ARG_DIFF_SRC, desc},
                                {DNNL_ARG_MEAN, mean_.get_desc()},
                                {DNNL_ARG_VARIANCE, mean_.get_desc()},
                                {DNNL_ARG_WORKSPACE, workspace_.get_desc()}});
    forward_.set(DNNL_ARG_SRC, x.data), forward_.set(DNNL_ARG_DST, layer.y().data);
    backward_.set(DNNL_ARG_SRC, x.data), backward_.set(DNNL_ARG_DIFF_DST, layer.dy().data);
    backward_.set(DNNL_ARG_DIFF_SRC, layer.dx().data);
    for (auto* task : {&forward_, &backward_}) {
      task->set(DNNL_ARG_MEAN, mean_.get_data_handle()), task->set(DNNL_ARG_VARIANCE, variance_.get_data_handle());
      if (workspace_.get_desc().get_size() > 0) task->set(DNNL_ARG_WORKSPACE, workspace_.get_data_handle());
    }
  }
  void forward() { forward_.run(); }
  void backward() { backward_.run(); }

 private:
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::memory workspace_, mean_, variance_;
  ops::cpu::Task forward_, backward_;
};

struct Geometry {
  std::vector<std::int64_t> sample;
  Layout layout;
};

std::string describe(const Geometry& g) {
  std::string text;
  for (const std::int64_t size : g.sample) text += fmt::format("{}{}", text.empty() ? "" : "x", size);
  return text + " " + (g.sample.size() == 1 ? "rows" : syncbn::name_of(g.layout));
}

std::string ratio(const Paired& times, std::size_t a, std::size_t b) {
  return fmt::format("{:.2f}", times.speed(a, b));
}

void measure(const char* size, double bytes, const Geometry& g, Fused fused, const Blocks& blocks) {
  std::int64_t values = 1;
  for (const std::int64_t s : g.sample) values *= s;
  const std::int64_t n = std::max<std::int64_t>(1, static_cast<std::int64_t>(bytes / 4 / static_cast<double>(values)));
  const Shape shape = g.sample.size() == 1 ? Shape{n, g.sample[0]} : Shape{n, g.sample[0], g.sample[1], g.sample[2]};
  Layer layer(shape, g.layout, fused);
  const std::int64_t chunk = std::max<std::int64_t>(1, 128 * 1024 / (4 * values));  // as Network calls them
  std::vector<std::function<void()>> forward = {[&] { layer.stream_forward(); }, [&] { layer.forward(n); },
                                                [&] { layer.forward(chunk); }};
  std::vector<std::function<void()>> backward = {[&] { layer.stream_backward(); }, [&] { layer.backward(n); },
                                                 [&] { layer.backward(chunk); }};
  std::unique_ptr<OneDnn> peer;
  if (block_of(g.layout) > 1 && fused != Fused::add_relu) {
    peer = std::make_unique<OneDnn>(layer, fused);
    forward.emplace_back([&] { peer->forward(); });
    forward.emplace_back([&] { layer.forward(n), layer.read(layer.y()); });
    forward.emplace_back([&] { peer->forward(), layer.read(layer.y()); });
    backward.emplace_back([&] { peer->backward(); });
    backward.emplace_back([&] { layer.backward(n), layer.read(layer.dx()); });
    backward.emplace_back([&] { peer->backward(), layer.read(layer.dx()); });
  }
  const Paired f(forward, blocks), b(backward, blocks);
  fmt::print("{:<5} {:<38} {:>5}  {:>5} {:>5} {:>7} {:>5}   {:>5} {:>5} {:>7} {:>5}\n", size,
             describe(g) + name_of(fused), n, ratio(f, 1, 0), ratio(f, 2, 0), peer ? ratio(f, 1, 3) : "-",
             peer ? ratio(f, 4, 5) : "-", ratio(b, 1, 0), ratio(b, 2, 0), peer ? ratio(b, 1, 3) : "-",
             peer ? ratio(b, 4, 5) : "-");
}

/// Whether forward and backward give what the map and the gradient say, and the peer computes the same thing.
bool validate() {
  Layer layer({3, 32, 5, 7}, ops::cpu::preferred_layout(32), Fused::nothing);
  OneDnn peer(layer, Fused::nothing);
  const auto values = static_cast<std::size_t>(layer.values());
  const auto copy_of = [&](const Tensor& t) { return std::vector<float>(t.as<float>(), t.as<float>() + values); };
  peer.forward();
  const std::vector<float> theirs = copy_of(layer.y());
  layer.forward(2);
  const std::vector<float> ours = copy_of(layer.y());
  for (std::size_t i = 0; i < values; ++i) {
    const float x = layer.x().as<float>()[i];
    if (std::abs(ours[i] - ((x - 0.125f) * 1.5f + 0.1f)) > 1e-5f) return false;
    if (!std::isfinite(theirs[i]) || std::abs(theirs[i]) > 10) return false;
  }
  layer.backward(2);
  for (std::size_t i = 0; i < values; ++i) {
    const float x = layer.x().as<float>()[i], dy = layer.dy().as<float>()[i];
    if (std::abs(layer.dx().as<float>()[i] - (1.5f * dy - 0.2f * (x - 0.125f) + 0.1f)) > 1e-5f) return false;
  }
  peer.backward();
  return true;
}

void run(const Arguments& arguments) {
  Blocks blocks;
  if (arguments.quick) blocks = {3, 0.002};
  const auto cache = [](int name, double otherwise) {
    const long bytes = sysconf(name);
    return bytes > 0 ? static_cast<double>(bytes) : otherwise;
  };
  const double l2 = cache(_SC_LEVEL2_CACHE_SIZE, 1 << 20), l3 = cache(_SC_LEVEL3_CACHE_SIZE, 32 << 20);
  const std::vector<std::pair<const char*, double>> sizes = {
      {"L2", l2 / 8}, {"L3", std::min(l3 / 8, 4 * l2)}, {"DRAM", std::min(2 * l3, 128.0 * (1 << 20))}};
  const Layout blocked = ops::cpu::preferred_layout(64);
  fmt::print(
      "Batch norm on one core; 1.00 = the roofline, the same passes over memory with nothing to compute. 'chunks': "
      "called for about 128 KiB at a time. '+read': against oneDNN, which stores around the caches, with a pass behind "
      "both that reads the result, as the next layer does.\n{:>53}{:>27} {:>27}\n{:<5} {:<38} {:>5}  {:>5} {:>5} {:>7} "
      "{:>5}   {:>5} {:>5} {:>7} {:>5}\n",
      "", "forward         ", "backward         ", "in", "layer", "N", "whole", "chunks", "/oneDNN", "+read", "whole",
      "chunks", "/oneDNN", "+read");
  for (const auto& [name, bytes] : sizes) {
    if (!arguments.wants(name)) continue;
    for (const Geometry& g : {Geometry{{16, 32, 32}, blocked}, Geometry{{64, 8, 8}, blocked},
                              Geometry{{64, 56, 56}, blocked}, Geometry{{64, 8, 8}, Layout::channels_last},
                              Geometry{{64, 8, 8}, Layout::channels_first}, Geometry{{256}, Layout::channels_first}}) {
      for (const Fused fused : {Fused::nothing, Fused::relu, Fused::add_relu}) measure(name, bytes, g, fused, blocks);
    }
  }
}

}  // namespace
}  // namespace syncbn::bench

int main(int argc, char** argv) {
  const syncbn::bench::Arguments arguments(argc, argv);
  if (!arguments.validate) {
    syncbn::bench::run(arguments);
    return 0;
  }
  const bool good = syncbn::bench::validate();
  fmt::print("kernels: {}\n", good ? "valid" : "NOT VALID");
  return good ? 0 : 1;
}
