#include <fmt/format.h>

#include <thread>

#include "support/ops_support.hpp"

namespace syncbn::testing {
namespace {

using ops::Conv2dGeometry;

struct Case {
  std::int64_t c_in, c_out, size, kernel, stride, padding;
  bool bias;
};

class Conv2dTest : public ::testing::TestWithParam<Case> {
 protected:
  Conv2dTest() {
    backend->prepare_thread();
    const Case& k = GetParam();
    const std::int64_t h_in = k.size, w_in = k.size + 1;
    const auto out = [&](std::int64_t in) { return (in + 2 * k.padding - k.kernel) / k.stride + 1; };
    g = {k.c_in, h_in, w_in, k.c_out, out(h_in), out(w_in), k.kernel, k.kernel, k.stride, k.padding, k.bias};
    Random random(7, Purpose::test);
    weight.resize(static_cast<std::size_t>(g.c_out * g.c_in * g.kernel_h * g.kernel_w));
    bias.resize(static_cast<std::size_t>(g.c_out));
    for (auto* values : {&weight, &bias})
      for (auto& v : *values) v = static_cast<float>(random.normal());
    weights = backend->conv2d_weights(g);
    weights->pack(weight.data());
    conv = backend->conv2d(g);
  }

  Array input(std::int64_t n) const { return {Shape{n, g.c_in, g.h_in, g.w_in}, backend->preferred_layout(g.c_in)}; }
  Array output(std::int64_t n) const {
    return {Shape{n, g.c_out, g.h_out, g.w_out}, backend->preferred_layout(g.c_out)};
  }

  /// visit(output position, output channel, index into weight, input channel, input position) for every product.
  template <class Visit>
  void for_each_product(Visit visit) const {
    for (std::int64_t o = 0; o < g.c_out; ++o)
      for (std::int64_t oh = 0; oh < g.h_out; ++oh)
        for (std::int64_t ow = 0; ow < g.w_out; ++ow)
          for (std::int64_t c = 0; c < g.c_in; ++c)
            for (std::int64_t kh = 0; kh < g.kernel_h; ++kh)
              for (std::int64_t kw = 0; kw < g.kernel_w; ++kw) {
                const std::int64_t ih = oh * g.stride - g.padding + kh, iw = ow * g.stride - g.padding + kw;
                if (ih < 0 || ih >= g.h_in || iw < 0 || iw >= g.w_in) continue;
                const auto w = static_cast<std::size_t>(((o * g.c_in + c) * g.kernel_h + kh) * g.kernel_w + kw);
                visit(oh * g.w_out + ow, o, w, c, ih * g.w_in + iw);
              }
  }

  std::unique_ptr<ops::Backend> backend = ops::make_cpu_backend();
  Conv2dGeometry g;
  std::vector<float> weight, bias;
  std::unique_ptr<ops::Conv2dWeights> weights;
  std::unique_ptr<ops::Conv2d> conv;
  static constexpr std::int64_t kN = 3;
};

TEST_P(Conv2dTest, ForwardEqualsPlainLoops) {
  Array x = input(kN), y = output(kN);
  x.fill(1);
  conv->forward(x, *weights, bias.data(), y, {0, kN});
  for (std::int64_t n = 0; n < kN; ++n) {
    std::vector<double> want(static_cast<std::size_t>(g.c_out * g.h_out * g.w_out));
    for_each_product([&](auto to, auto o, auto w, auto c, auto from) {
      want[o * y.spatial() + to] += double{weight[w]} * x.get(n, c, from);
    });
    for (std::int64_t o = 0; o < g.c_out; ++o)
      for (std::int64_t i = 0; i < y.spatial(); ++i) {
        const double sum = want[o * y.spatial() + i] + (g.bias ? double{bias[o]} : 0.0);
        ASSERT_NO_FATAL_FAILURE(expect_close(y.get(n, o, i), sum, 1e-4, 1e-4, "y"));
      }
  }
  EXPECT_TRUE(y.padding_is_clean());
}

TEST_P(Conv2dTest, BackwardDataEqualsPlainLoops) {
  for (const bool accumulate : {false, true}) {
    Array dy = output(kN), dx = input(kN);
    dy.fill(2);
    dx.fill(3);
    Array before = input(kN);
    before.fill(3);
    conv->backward_data(dy, *weights, dx, {0, kN}, accumulate);
    for (std::int64_t n = 0; n < kN; ++n) {
      std::vector<double> want(static_cast<std::size_t>(g.c_in * g.h_in * g.w_in));
      for_each_product([&](auto to, auto o, auto w, auto c, auto from) {
        want[c * dx.spatial() + from] += double{weight[w]} * dy.get(n, o, to);
      });
      for (std::int64_t c = 0; c < g.c_in; ++c)
        for (std::int64_t i = 0; i < dx.spatial(); ++i) {
          const double sum = want[c * dx.spatial() + i] + (accumulate ? before.get(n, c, i) : 0.0);
          ASSERT_NO_FATAL_FAILURE(expect_close(dx.get(n, c, i), sum, 1e-4, 1e-4, "dx"));
        }
    }
    EXPECT_TRUE(dx.padding_is_clean());
  }
}

// Gradients are in the kernels' order: what is added to must be, too, and what comes out is unpacked.
TEST_P(Conv2dTest, BackwardWeightsAssignsOrAddsSumsOverTheBatch) {
  for (const bool accumulate : {false, true}) {
    std::vector<float> packed(weight.size(), 0.5f), d_weight(weight.size()), d_bias(bias.size(), -0.5f);
    std::vector<double> want(weight.size(), accumulate ? 0.5 : 0), want_bias(bias.size(), accumulate ? -0.5 : 0);
    for (const std::int64_t n : {3, 0, 1}) {
      Array x = input(n), dy = output(n);
      x.fill(4);
      dy.fill(5);
      if (!accumulate) std::fill(want.begin(), want.end(), 0);
      if (!accumulate) std::fill(want_bias.begin(), want_bias.end(), 0);
      conv->backward_weights(x, dy, n, packed.data(), d_bias.data(), accumulate);
      weights->unpack_gradient(packed.data(), d_weight.data());
      for (std::int64_t i = 0; i < n; ++i) {
        for_each_product(
            [&](auto to, auto o, auto w, auto c, auto from) { want[w] += dy.get(i, o, to) * x.get(i, c, from); });
      }
      dy.for_each([&](auto i, auto o, auto at) { want_bias[o] += dy.get(i, o, at); });
      for (std::size_t i = 0; i < want.size(); ++i) {
        ASSERT_NO_FATAL_FAILURE(expect_close(d_weight[i], want[i], 1e-4, 2e-4, "d_weight"));
      }
      for (std::size_t i = 0; g.bias && i < want_bias.size(); ++i) {
        ASSERT_NO_FATAL_FAILURE(expect_close(d_bias[i], want_bias[i], 1e-4, 2e-4, "d_bias"));
      }
    }
  }
}

TEST_P(Conv2dTest, RangesAndFreshKernelsGiveTheSameBits) {
  Array x = input(kN), y = output(kN), y_cut = output(kN), dx = input(kN), dx_cut = input(kN);
  x.fill(6);
  const auto other = backend->conv2d(g);
  conv->forward(x, *weights, bias.data(), y, {0, kN});
  conv->backward_data(y, *weights, dx, {0, kN}, false);
  for (std::int64_t n = kN - 1; n >= 0; --n) {
    other->forward(x, *weights, bias.data(), y_cut, {n, n + 1});
    other->backward_data(y_cut, *weights, dx_cut, {n, n + 1}, false);
  }
  EXPECT_TRUE(y.same_bytes(y_cut));
  EXPECT_TRUE(dx.same_bytes(dx_cut));
}

TEST_P(Conv2dTest, ThreadsThatWereNotPreparedComputeTheSameBits) {
  Array x = input(kN), y = output(kN), y_other = output(kN);
  x.fill(6);
  std::vector<float> d_weight(weight.size()), d_weight_other(weight.size()), d_bias(bias.size());
  conv->forward(x, *weights, bias.data(), y, {0, kN});
  conv->backward_weights(x, y, kN, d_weight.data(), d_bias.data(), false);
  std::thread([&] {
    const auto other = backend->conv2d(g);
    other->forward(x, *weights, bias.data(), y_other, {0, kN});
    other->backward_weights(x, y_other, kN, d_weight_other.data(), d_bias.data(), false);
  }).join();
  EXPECT_TRUE(y.same_bytes(y_other));
  EXPECT_EQ(d_weight, d_weight_other);
}

TEST_P(Conv2dTest, OtherLayoutsGiveTheSameBits) {
  Array x = input(kN), y = output(kN), dx = input(kN);
  x.fill(6);
  conv->forward(x, *weights, bias.data(), y, {0, kN});
  conv->backward_data(y, *weights, dx, {0, kN}, false);
  for (const Layout layout : all_layouts()) {
    Array x2(x.tensor().shape, layout), y2(y.tensor().shape, layout), dx2(x.tensor().shape, layout);
    x2.fill(6);
    conv->forward(x2, *weights, bias.data(), y2, {0, kN});
    conv->backward_data(y2, *weights, dx2, {0, kN}, false);
    y.for_each([&](auto n, auto c, auto i) { ASSERT_EQ(y.get(n, c, i), y2.get(n, c, i)); });
    dx.for_each([&](auto n, auto c, auto i) { ASSERT_EQ(dx.get(n, c, i), dx2.get(n, c, i)); });
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, Conv2dTest,
                         ::testing::Values(Case{3, 16, 9, 3, 1, 1, false}, Case{3, 64, 15, 7, 2, 3, false},
                                           Case{1, 6, 12, 5, 1, 2, true}, Case{6, 16, 11, 5, 1, 0, true},
                                           Case{16, 16, 8, 3, 1, 1, false}, Case{16, 32, 9, 3, 2, 1, false},
                                           Case{16, 32, 8, 1, 2, 0, false}, Case{27, 3, 6, 3, 1, 1, true},
                                           Case{64, 64, 5, 1, 1, 0, true}, Case{32, 48, 7, 3, 2, 0, false}),
                         [](const auto& test) {
                           const Case& k = test.param;
                           return fmt::format("c{}to{}_k{}_s{}_p{}{}", k.c_in, k.c_out, k.kernel, k.stride, k.padding,
                                              k.bias ? "_bias" : "");
                         });

}  // namespace
}  // namespace syncbn::testing
