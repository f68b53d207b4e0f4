// Runs each batch norm kernel once under callgrind, which counts its instructions: a figure that does not depend on
// what else the machine does. One dump per kernel, named "<target> <layer> <kernel> <values>".
//
// usage: valgrind --tool=callgrind --instr-atstart=no bench_instructions best|generic

#include <fmt/format.h>
#include <hwy/targets.h>
#include <valgrind/callgrind.h>

#include "bench/batch_norm_layer.hpp"
#include "ops/cpu/batch_norm_sweeps.hpp"

namespace syncbn::bench {
namespace {

void count(const std::string& name, const Shape& shape, Layout layout, Fused fused, std::int64_t chunk) {
  Layer layer(shape, layout, fused);
  const auto dump = [&](const char* kernel, auto run) {
    const std::string label = fmt::format("{} {} {} {}", ops::cpu::vector_target(), name, kernel, layer.values());
    run();
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_ZERO_STATS;
    run();
    CALLGRIND_DUMP_STATS_AT(label.c_str());
    CALLGRIND_STOP_INSTRUMENTATION;
  };
  dump("sums", [&] { layer.sums(chunk); });
  dump("apply", [&] { layer.apply(chunk); });
  dump("backward_sums", [&] { layer.backward_sums(chunk); });
  dump("backward", [&] { layer.backward_apply(chunk); });
}

}  // namespace
}  // namespace syncbn::bench

int main(int argc, char** argv) {
  using namespace syncbn;
  if (argc == 2 && std::string(argv[1]) == "generic") hwy::DisableTargets(~HWY_STATIC_TARGET);
  using bench::Fused;
  bench::count("16x32x32+relu", {2, 16, 32, 32}, Layout::blocked8, Fused::relu, 1);
  bench::count("64x8x8+add+relu", {4, 64, 8, 8}, Layout::blocked8, Fused::add_relu, 1);
  bench::count("rows256+relu", {64, 256}, Layout::channels_first, Fused::relu, 64);
}
