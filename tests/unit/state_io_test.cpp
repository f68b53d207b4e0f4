#include "train/storage/state_io.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "support/small_network.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(StateIo, RefusesStatisticsThatAreNone) {
  const auto backend = ops::make_cpu_backend();
  for (const std::string norm : {"batch", "whitening"}) {
    const auto message = [&](const std::function<void(ModelState&)>& change) {
      test::NetworkRun run{.counts = {1}, .norm = norm};
      ModelState good = test::small_network_state(run, *backend);
      run.change = change;
      ModelState bad = test::small_network_state(run, *backend);
      try {
        load_model(good, SafetensorsFile::parse(store_model(bad).serialize(), "my.safetensors"));
      } catch (const Error& e) {
        EXPECT_EQ(e.code(), ExitCode::bad_data);
        return std::string(e.what());
      }
      return std::string();
    };
    const auto last = [](ModelState& s, FlatRange range) -> float& { return s.values(range).back(); };
    EXPECT_EQ(message([](ModelState&) {}), "");
    EXPECT_THAT(
        message([&](ModelState& s) { last(s, s.norm_states()[0].var) = std::numeric_limits<float>::infinity(); }),
        HasSubstr("my.safetensors: tensor "));
    EXPECT_THAT(message([&](ModelState& s) { last(s, s.norm_states()[0].mean) = std::nanf(""); }),
                HasSubstr(".running_mean holds nan"));
    const std::string negative = message([&](ModelState& s) { last(s, s.norm_states()[0].var) = -0.5f; });
    EXPECT_EQ(negative != "", norm == "batch") << negative;
  }
}

TEST(StateIo, LeavesOffWhatPyTorchsWrappersPutInFront) {
  const auto backend = ops::make_cpu_backend();
  const test::NetworkRun run{.counts = {1}};
  ModelState state = test::small_network_state(run, *backend);
  const SafetensorsFile plain = store_model(state);
  const auto renamed = [&](const std::string& prefix) {
    SafetensorsFile file;
    for (const auto& [name, tensor] : plain.tensors) file.tensors[prefix + name] = tensor;
    return file;
  };
  for (const std::string prefix : {"", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."}) {
    ModelState other = test::small_network_state(run, *backend);
    for (float& v : other.values(other.parameter(0))) v = 0;
    EXPECT_EQ(load_model(other, renamed(prefix)), prefix);
    EXPECT_EQ(store_model(other).serialize(), plain.serialize()) << prefix;
  }
  const std::string first = plain.tensors.begin()->first;
  EXPECT_EQ(load_model(state, renamed("module."), {first}), "module.");  // by the model's names
  SafetensorsFile some = renamed("module.");
  some.tensors["module_of_mine"] = plain.tensors.begin()->second;
  EXPECT_THROW(load_model(state, some), Error);
  EXPECT_THROW(load_model(state, renamed("model.")), Error);
}

// As torchvision's ResNets, and as PyTorch reads them.
TEST(StateIo, TakesFilesThatCountNoBatches) {
  const auto backend = ops::make_cpu_backend();
  ModelState state = test::small_network_state({.counts = {1}}, *backend);
  SafetensorsFile file = store_model(state);
  EXPECT_GT(std::erase_if(file.tensors, [](const auto& t) { return t.first.ends_with(".num_batches_tracked"); }), 0u);
  for (NormState& s : state.norm_states()) s.batches_tracked = 7;
  load_model(state, file);
  for (const NormState& s : state.norm_states()) EXPECT_EQ(s.batches_tracked, 0);
}

TEST(StateIo, SaysHowToLeaveOutWhatDoesNotFit) {
  const auto backend = ops::make_cpu_backend();
  ModelState state = test::small_network_state({.counts = {1}}, *backend);
  const auto message = [&](const SafetensorsFile& file) {
    try {
      load_model(state, file);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::bad_data);
      return std::string(e.what());
    }
    return std::string();
  };
  const std::string name = state.model().parameters.front().name;
  SafetensorsFile file = store_model(state);
  file.tensors.at(name).shape.push_back(1);
  EXPECT_THAT(message(file), AllOf(HasSubstr("belongs to another model"), HasSubstr("model.weights_except")));
  file.tensors.erase(name);
  EXPECT_THAT(message(file), AllOf(HasSubstr(name + " is missing"),
                                   HasSubstr("(a training can leave tensors out: model.weights_except)")));
}

}  // namespace
}  // namespace syncbn
