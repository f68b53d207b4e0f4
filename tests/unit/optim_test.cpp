#include "syncbn/optim/optimizer.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>

#include "syncbn/core/error.hpp"
#include "syncbn/core/random.hpp"

namespace syncbn {
namespace {

// Odd sizes, one slot above the size of a cache block, padding everywhere, and two parameters without decay.
std::vector<ParameterSlot> odd_slots() {
  return {{"conv.weight", 0, 5003, false},
          {"bn.weight", 5008, 17, true},
          {"bn.bias", 5040, 1, true},
          {"fc.weight", 5056, 640, false},
          {"fc.bias", 5696, 31, true}};
}
constexpr std::int64_t kFlat = 5728;

// Values in the slots; `padding` in between.
std::vector<float> fill(const std::vector<ParameterSlot>& slots, std::uint64_t stream, float padding) {
  std::vector<float> values(kFlat, padding);
  Random random(3, Purpose::test, stream);
  for (const auto& slot : slots) {
    for (std::int64_t i = 0; i < slot.count; ++i) {
      values[slot.offset + i] = static_cast<float>(random.normal());
    }
  }
  return values;
}

struct Outcome {
  std::vector<float> parameters;
  std::vector<std::vector<float>> states;
  bool operator==(const Outcome&) const = default;
};

Outcome run(const OptimizerOptions& options, int steps, int parts, double scale = 1) {
  const auto slots = odd_slots();
  const auto optimizer = make_optimizer(options, slots, kFlat);
  Outcome outcome{fill(slots, 0, 0), {}};
  for (int t = 0; t < steps; ++t) {
    const auto gradient = fill(slots, 1 + static_cast<std::uint64_t>(t), 7);
    for (int part = parts - 1; part >= 0; --part) {
      optimizer->update(outcome.parameters, gradient, 0.01 * (t + 1), scale, part, parts);
    }
    optimizer->count_update();
  }
  for (std::size_t i = 0; i < optimizer->state_names().size(); ++i) {
    const auto state = optimizer->state(static_cast<int>(i));
    outcome.states.emplace_back(state.begin(), state.end());
  }
  return outcome;
}

OptimizerOptions options_of(const std::string& name) {
  OptimizerOptions options;
  options.name = name;
  options.weight_decay = 0.01;
  return options;
}

// ---- straightforward f64 references, one slot at a time ----

using Vec = std::vector<double>;

double length(const Vec& v) {
  double sum = 0;
  for (const double x : v) sum += x * x;
  return std::sqrt(sum);
}

/// One update of one parameter. t counts from 1; a and b are the state buffers; `weight` is false for norms and biases.
void reference_update(const OptimizerOptions& o, bool weight, int t, double lr, Vec& p, Vec g, Vec& a, Vec& b) {
  const bool covered = weight || o.decay_norm_and_bias;
  const double decay = covered ? o.weight_decay : 0;
  Vec u(p.size());
  double ratio = 1;
  if (o.name == "lars" && covered) {
    ratio = o.trust_coefficient * length(p) / (length(g) + decay * length(p) + o.eps);
  }
  for (std::size_t i = 0; i < p.size(); ++i) {
    if (o.name == "sgd") {
      const double d = g[i] + decay * p[i];
      a[i] = t == 1 ? d : o.momentum * a[i] + d;
      u[i] = lr * (o.nesterov ? d + o.momentum * a[i] : a[i]);
    } else if (o.name == "adagrad") {
      const double d = g[i] + decay * p[i];
      a[i] += d * d;
      u[i] = lr * d / (std::sqrt(a[i]) + o.eps);
    } else if (o.name == "lars") {
      a[i] = o.momentum * a[i] + lr * ratio * (g[i] + decay * p[i]);
      u[i] = a[i];
    } else {
      const double d = o.name == "adam" ? g[i] + decay * p[i] : g[i];
      a[i] = o.beta1 * a[i] + (1 - o.beta1) * d;
      b[i] = o.beta2 * b[i] + (1 - o.beta2) * d * d;
      u[i] = (a[i] / (1 - std::pow(o.beta1, t))) / (std::sqrt(b[i] / (1 - std::pow(o.beta2, t))) + o.eps);
      if (o.name != "adam") u[i] += decay * p[i];
      if (o.name != "lamb") u[i] *= lr;
    }
  }
  if (o.name == "lamb") {
    ratio = covered ? length(p) / length(u) : 1;
    for (double& x : u) x *= lr * ratio;
  }
  for (std::size_t i = 0; i < p.size(); ++i) p[i] -= u[i];
}

std::vector<double> reference_run(const OptimizerOptions& options, int steps, double scale) {
  const auto slots = odd_slots();
  const auto start = fill(slots, 0, 0);
  std::vector<double> result(start.begin(), start.end());
  for (const auto& slot : slots) {
    const auto n = static_cast<std::size_t>(slot.count), offset = static_cast<std::size_t>(slot.offset);
    Vec p(result.begin() + slot.offset, result.begin() + slot.offset + slot.count), a(n), b(n);
    for (int t = 0; t < steps; ++t) {
      const auto gradient = fill(slots, 1 + static_cast<std::uint64_t>(t), 7);
      Vec g(n);
      for (std::size_t i = 0; i < n; ++i) g[i] = scale * gradient[offset + i];
      reference_update(options, !slot.norm_or_bias, t + 1, 0.01 * (t + 1), p, g, a, b);
    }
    std::copy(p.begin(), p.end(), result.begin() + slot.offset);
  }
  return result;
}

void expect_matches_reference(const OptimizerOptions& options) {
  for (const double scale : {1.0, 0.25}) {
    const auto got = run(options, 5, 3, scale).parameters;
    const auto expected = reference_run(options, 5, scale);
    for (std::size_t i = 0; i < got.size(); ++i) {
      ASSERT_NEAR(got[i], expected[i], 2e-6 * (1 + std::abs(expected[i])))
          << options.name << " element " << i << " scale " << scale;
    }
  }
}

class EveryOptimizer : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Names, EveryOptimizer, testing::Values("sgd", "adagrad", "adam", "adamw", "lars", "lamb"),
                         [](const auto& test) { return std::string(test.param); });

TEST_P(EveryOptimizer, MatchesTheReference) {
  OptimizerOptions options = options_of(GetParam());
  expect_matches_reference(options);
  options.decay_norm_and_bias = true;
  expect_matches_reference(options);
  if (options.name == "sgd") {
    options.nesterov = true;
    expect_matches_reference(options);
  }
}

TEST_P(EveryOptimizer, DoesNotDependOnTheCut) {
  const OptimizerOptions options = options_of(GetParam());
  const Outcome whole = run(options, 3, 1, 0.7);
  for (const int parts : {2, 3, 7, 64, 1000}) EXPECT_EQ(run(options, 3, parts, 0.7), whole) << parts << " parts";
}

TEST_P(EveryOptimizer, LeavesPaddingAtZero) {
  const Outcome outcome = run(options_of(GetParam()), 3, 3);
  std::vector<bool> used(kFlat, false);
  for (const auto& slot : odd_slots()) std::fill_n(used.begin() + slot.offset, slot.count, true);
  for (std::size_t i = 0; i < used.size(); ++i) {
    if (used[i]) continue;
    ASSERT_EQ(outcome.parameters[i], 0) << i;
    for (const auto& state : outcome.states) ASSERT_EQ(state[i], 0) << i;
  }
}

TEST_P(EveryOptimizer, GoesOnFromItsStateToTheBit) {
  const OptimizerOptions options = options_of(GetParam());
  const auto slots = odd_slots();
  const auto first = make_optimizer(options, slots, kFlat), second = make_optimizer(options, slots, kFlat);
  std::vector<float> parameters = fill(slots, 0, 0);
  const auto gradient = fill(slots, 1, 0);
  const auto step = [&](Optimizer& optimizer, std::vector<float>& values) {
    optimizer.update(values, gradient, 0.1, 1, 0, 1);
    optimizer.count_update();
  };
  step(*first, parameters);
  step(*first, parameters);

  second->set_updates(first->updates());
  for (std::size_t i = 0; i < first->state_names().size(); ++i) {
    const auto from = first->state(static_cast<int>(i)), to = second->state(static_cast<int>(i));
    std::copy(from.begin(), from.end(), to.begin());
  }
  std::vector<float> copy = parameters;
  step(*first, parameters);
  step(*second, copy);
  EXPECT_EQ(copy, parameters);
}

TEST_P(EveryOptimizer, StaysFiniteOnZeroParametersAndGradients) {
  const auto slots = odd_slots();
  const auto optimizer = make_optimizer(options_of(GetParam()), slots, kFlat);
  std::vector<float> parameters(kFlat, 0.0f);
  const std::vector<float> zero(kFlat, 0.0f), gradient = fill(slots, 1, 0);
  for (const auto& g : {zero, gradient, zero}) {
    optimizer->update(parameters, g, 0.1, 1, 0, 1);
    optimizer->count_update();
  }
  for (const float p : parameters) ASSERT_TRUE(std::isfinite(p));
  EXPECT_NE(parameters[0], 0) << "a parameter that starts at zero must be able to leave it";
}

// Made with PyTorch 1.13 in float64: parameters p below, gradient sin(1.3 i + 0.7 t) (1 + 0.5 i) in step t = 0..3,
// lr 0.1, weight_decay 0.01, the other options at PyTorch's defaults except eps 1e-8.
TEST(Optim, MatchesPyTorch) {
  struct Case {
    const char* name;
    double momentum;
    bool nesterov;
    std::vector<double> expected;
  };
  const Case cases[] = {{"sgd", 0, false, {0.2489426437, -1.550941726, 2.271900571, 0.7966656525, -0.00219924473}},
                        {"sgd", 0.9, false, {0.04768631632, -2.186972438, 2.201094761, 1.826106525, 0.7502589757}},
                        {"sgd", 0.9, true, {-0.1576493062, -2.392123476, 2.453460115, 2.347003859, 0.6971912823}},
                        {"adagrad", 0, false, {0.1573102226, -1.43002106, 2.080939064, 0.3575503449, 0.01356096104}},
                        {"adam", 0, false, {0.1492673728, -1.60638416, 1.947200839, 0.4896598227, 0.199435087}},
                        {"adamw", 0, false, {0.2484056416, -1.601725332, 1.944203445, 0.4887018538, 0.1991413645}}};
  for (const Case& c : cases) {
    OptimizerOptions options = options_of(c.name);
    options.momentum = c.momentum;
    options.nesterov = c.nesterov;
    const auto optimizer = make_optimizer(options, {{"w", 0, 5, false}}, 16);
    std::vector<float> p = {0.5f, -1.25f, 2.0f, 0.1f, -0.03f}, g(16);
    p.resize(16);
    for (int t = 0; t < 4; ++t) {
      for (std::size_t i = 0; i < 5; ++i) {
        g[i] =
            static_cast<float>(std::sin(1.3 * static_cast<double>(i) + 0.7 * t) * (1 + 0.5 * static_cast<double>(i)));
      }
      optimizer->update(p, g, 0.1, 1, 0, 1);
      optimizer->count_update();
    }
    for (std::size_t i = 0; i < 5; ++i) {
      EXPECT_NEAR(p[i], c.expected[i], 2e-6) << c.name << " momentum " << c.momentum << " element " << i;
    }
  }
}

TEST(Optim, LarsByHand) {
  // |p| = 5, |g| = 10, no decay: ratio = 0.1 * 5 / 10 = 0.05; step = lr * ratio * g = 0.5 * 0.05 * (6, 8).
  OptimizerOptions options;
  options.name = "lars";
  options.trust_coefficient = 0.1;
  options.eps = 0;
  const auto optimizer = make_optimizer(options, {{"w", 0, 2, false}, {"b", 16, 2, true}}, 32);
  std::vector<float> p(32), g(32);
  p[0] = p[16] = 3, p[1] = p[17] = 4;
  g[0] = g[16] = 6, g[1] = g[17] = 8;
  optimizer->update(p, g, 0.5, 1, 0, 1);
  optimizer->count_update();
  EXPECT_FLOAT_EQ(p[0], 2.85f);
  EXPECT_FLOAT_EQ(p[1], 3.8f);
  EXPECT_FLOAT_EQ(p[16], 0) << "biases take the plain step";
  EXPECT_FLOAT_EQ(p[17], 0);
}

TEST(Optim, LambByHand) {
  // The first step of Adam has direction sign(g) = (1, -1), of length sqrt(2); |p| = 5.
  OptimizerOptions options;
  options.name = "lamb";
  options.eps = 0;
  const auto optimizer = make_optimizer(options, {{"w", 0, 2, false}}, 16);
  std::vector<float> p(16), g(16);
  p[0] = 3, p[1] = 4, g[0] = 0.3f, g[1] = -20;
  optimizer->update(p, g, 0.1, 1, 0, 1);
  optimizer->count_update();
  EXPECT_NEAR(p[0], 3 - 0.1 * 5 / std::sqrt(2.0), 1e-6);
  EXPECT_NEAR(p[1], 4 + 0.1 * 5 / std::sqrt(2.0), 1e-6);
}

TEST(Optim, NamesItsState) {
  EXPECT_EQ(make_optimizer(options_of("sgd"), {}, 0)->state_names(), (std::vector<std::string>{"momentum"}));
  EXPECT_EQ(make_optimizer(options_of("adam"), {}, 0)->state_names(),
            (std::vector<std::string>{"exp_avg", "exp_avg_sq"}));
  OptimizerOptions plain = options_of("sgd");
  plain.momentum = 0;
  EXPECT_TRUE(make_optimizer(plain, {}, 0)->state_names().empty());
}

// Wherever they lie: at the end of an array, too, and with any processor's estimate of a square root.
TEST(Optim, EqualParametersStayEqual) {
  for (const char* name : {"sgd", "adagrad", "adam", "adamw", "lars", "lamb"}) {
    constexpr std::int64_t kCount = 23;
    const auto optimizer = make_optimizer(options_of(name), {{"w", 0, kCount, false}}, 32);
    std::vector<float> parameters(32, 0.7f);
    for (int t = 1; t < 50; ++t) {
      const std::vector<float> gradient(32, 0.013f * static_cast<float>(t * t));
      optimizer->update(parameters, gradient, 0.01, 1, 0, 1);
      optimizer->count_update();
      for (std::size_t i = 1; i < kCount; ++i) ASSERT_EQ(parameters[i], parameters[0]) << name << ", update " << t;
    }
  }
}

// Without a gradient there is no ratio of norms, and decay takes the plain step.
TEST(Optim, LarsWithoutAGradient) {
  OptimizerOptions options;
  options.name = "lars";
  options.momentum = 0;
  options.weight_decay = 0.1;
  std::vector<float> p(16), g(16);
  p[0] = 3, p[1] = 4;
  make_optimizer(options, {{"w", 0, 2, false}}, 16)->update(p, g, 0.5, 1, 0, 1);
  EXPECT_NEAR(p[0], 3 * (1 - 0.5 * 0.1), 1e-6);
  EXPECT_NEAR(p[1], 4 * (1 - 0.5 * 0.1), 1e-6);
}

TEST(Optim, LarsAddsEpsToTheNorms) {
  OptimizerOptions options;
  options.name = "lars";
  options.momentum = 0;
  options.trust_coefficient = 0.5;
  options.eps = 2;
  std::vector<float> p(16), g(16);
  p[0] = 3, p[1] = 4, g[1] = 0.5;
  make_optimizer(options, {{"w", 0, 2, false}}, 16)->update(p, g, 1, 1, 0, 1);
  EXPECT_EQ(p[0], 3);
  EXPECT_NEAR(p[1], 4 - 0.5 * 5 / (0.5 + 2) * 0.5, 1e-6);
}

TEST(Optim, GradientSquaresDoNotDependOnTheCut) {
  const auto slots = odd_slots();
  const auto gradient = fill(slots, 9, 5);
  std::vector<double> whole(slots.size(), -1);
  gradient_squares(slots, gradient, whole, 0, 1);
  for (std::size_t s = 0; s < slots.size(); ++s) {
    double expected = 0;
    for (std::int64_t i = 0; i < slots[s].count; ++i) {
      const double g = gradient[slots[s].offset + i];
      expected += g * g;
    }
    EXPECT_NEAR(whole[s], expected, 1e-12 * expected) << slots[s].name;
  }
  for (const int parts : {2, 3, 7, 100}) {
    std::vector<double> cut(slots.size(), -1);
    for (int part = 0; part < parts; ++part) gradient_squares(slots, gradient, cut, part, parts);
    EXPECT_EQ(cut, whole) << parts;
  }
}

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::usage);
    return e.what();
  }
  return "no error";
}

TEST(Optim, RefusesBadOptions) {
  const auto refusal = [](auto change) {
    OptimizerOptions options;
    change(options);
    return message_of([&] { make_optimizer(options, {}, 0); });
  };
  EXPECT_NE(refusal([](auto& o) { o.name = "adma"; }).find("did you mean 'adam'?"), std::string::npos);
  EXPECT_NE(refusal([](auto& o) { o.momentum = 1; }).find("optimizer.momentum"), std::string::npos);
  EXPECT_NE(refusal([](auto& o) { o.beta2 = -0.1; }).find("optimizer.beta2"), std::string::npos);
  EXPECT_NE(refusal([](auto& o) { o.weight_decay = std::nan(""); }).find("optimizer.weight_decay"), std::string::npos);
  EXPECT_NE(refusal([](auto& o) { o.name = "adam", o.nesterov = true; }).find("nesterov"), std::string::npos);
}

TEST(Optim, RefusesBuffersThatDoNotFit) {
  EXPECT_THROW(make_optimizer({}, {{"w", 8, 4, false}}, 16), Error) << "offset not a multiple of 16";
  EXPECT_THROW(make_optimizer({}, {{"w", 0, 17, false}}, 16), Error);
  EXPECT_THROW(make_optimizer({}, {{"w", 0, 17, false}, {"v", 16, 1, false}}, 32), Error);
  const auto optimizer = make_optimizer({}, {{"w", 0, 4, false}}, 16);
  std::vector<float> p(16), g(15);
  EXPECT_THROW(optimizer->update(p, g, 1, 1, 0, 1), Error);
}

TEST_P(EveryOptimizer, RefusesPartsThatThereAreNot) {
  OptimizerOptions options;
  options.name = GetParam();
  const auto optimizer = make_optimizer(options, {{"w", 0, 16, false}}, 16);
  std::vector<float> p(16), g(16);
  std::vector<double> squares(1);
  for (const int part : {-1, 2, 5}) {
    EXPECT_EQ(message_of([&] { optimizer->update(p, g, 1, 1, part, 2); }),
              "optimizer: part " + std::to_string(part) + " of 2 parts: they count from 0");
    EXPECT_THROW(optimizer->squares(g, squares, part, 2), Error);
  }
}

}  // namespace
}  // namespace syncbn
