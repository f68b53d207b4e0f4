#include "train/storage/state_io.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <span>

#include "support/small_network.hpp"
#include "syncbn/core/error.hpp"
#include "train/storage/class_names.hpp"

namespace syncbn {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST(StateIo, RefusesStatisticsThatAreNone) {
  const auto backend = ops::make_cpu_backend();
  for (const std::string norm : {"batch", "whitening"}) {
    const auto message = [&](const std::function<void(ModelState&)>& change) {
      test::NetworkRun run{.counts = {1}, .norm = norm};
      ModelState good = test::small_network_state(run, *backend);
      run.change = change;
      ModelState bad = test::small_network_state(run, *backend);
      load_model(good, SafetensorsFile::parse(store_model(bad).serialize(), "my.safetensors"));  // as from a checkpoint
      try {
        require_finite(good, "my.safetensors");
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

// A checkpoint may: its training goes on to say why it diverges.
TEST(StateIo, WeightsToStartFromAreFinite) {
  const auto backend = ops::make_cpu_backend();
  ModelState state = test::small_network_state({.counts = {1}}, *backend);
  const std::string name = state.model().parameters.front().name;
  const SafetensorsFile good = store_model(state);
  require_finite(state, "my.safetensors");
  const auto message = [&](const SafetensorsFile& file) {
    load_model(state, file);
    try {
      require_finite(state, "my.safetensors");
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::bad_data);
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_EQ(message(good), "");
  for (const double bad : {std::nan(""), 1e300}) {
    SafetensorsFile file = good;
    StoredTensor& tensor = file.tensors.at(name);
    std::vector<double> values(tensor.data.size() / sizeof(float));
    values.back() = bad;
    const auto bytes = std::as_bytes(std::span(values));
    tensor.dtype = "F64";
    tensor.data.assign(bytes.begin(), bytes.end());
    EXPECT_THAT(message(file), HasSubstr("my.safetensors: tensor " + name + " holds " + (bad > 0 ? "inf" : "nan") +
                                         ", which is no float32 number: take other weights"));
  }
}

TEST(StateIo, WeightsNameTheirClasses) {
  ModelOptions options;
  options.name = "resnet8";
  options.input = {1, 3, 32, 32};
  options.classes = 2;
  const Model model = make_model(options);
  SafetensorsFile file;
  put_class_names(file, {"ant", "\xFF"});  // no text
  EXPECT_TRUE(file.metadata.empty());
  file.metadata["classes"] = "{1";  // of another program
  EXPECT_TRUE(class_names(file).empty());
  put_class_names(file, {"Zebra", "été"});
  file = SafetensorsFile::parse(file.serialize(), "my.safetensors");
  EXPECT_EQ(class_names(file), (std::vector<std::string>{"Zebra", "été"}));

  const auto message = [&](const std::vector<std::string>& names, const std::vector<std::string>& except = {}) {
    try {
      require_same_classes(file, names, model, except);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::bad_data);
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_EQ(message({"Zebra", "été"}), "");
  EXPECT_EQ(message({}), "");
  EXPECT_EQ(message({"x1", "x2"}, {"fc.*"}), "");
  EXPECT_THAT(message({"Zebra", "cat"}, {"conv1.*"}),
              AllOf(StartsWith("my.safetensors: "), HasSubstr("output 1 is 'été' there and 'cat' here"),
                    HasSubstr("model.weights_except='[\"fc.*\"]'")));
  EXPECT_THAT(message({"Zebra", "été", "z"}), HasSubstr("there are 2 there and 3 here"));
}

// The name of the model is right, and the sizes of the images are not.
TEST(StateIo, SaysThatSmallImagesHaveAnotherFirstLayer) {
  const auto backend = ops::make_cpu_backend();
  const auto state = [&](std::int64_t side) {
    ModelOptions options;
    options.name = "resnet18";
    options.input = {1, 3, side, side};
    return ModelState(make_model(options), {}, *backend);
  };
  const auto message = [](ModelState to, ModelState from) {
    try {
      load_model(to, store_model(from));
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  const std::string reason = "for images below 64 pixels resnet18/34/50 have another first layer: set data.image_size=";
  EXPECT_THAT(message(state(32), state(64)), HasSubstr(reason + "64"));
  EXPECT_THAT(message(state(64), state(32)), HasSubstr(reason + "32"));
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
  file.origin = "my.safetensors";
  const SafetensorsFile good = file;
  file.tensors.at(name).shape.push_back(1);
  EXPECT_THAT(message(file), AllOf(StartsWith("my.safetensors: tensor " + name + " has shape"),
                                   HasSubstr("belongs to another model"), HasSubstr("model.weights_except")));
  file.tensors.erase(name);
  EXPECT_THAT(message(file), AllOf(StartsWith("my.safetensors: tensor " + name + " is missing"),
                                   HasSubstr("(a training can leave tensors out: model.weights_except)")));
  file = good;
  file.tensors.at(name).dtype = "F8_E4M3";
  EXPECT_EQ(message(file),
            "my.safetensors: tensor " + name + " has type F8_E4M3 instead of F32; convert it to F16, BF16, F32 or F64");
  file = good;
  file.put_f32("more", {}, std::vector<float>{1});
  EXPECT_THAT(message(file), StartsWith("my.safetensors: tensor 'more' has no place in this model: choose"));
  file.put_f32("most", {}, std::vector<float>{1});
  EXPECT_THAT(message(file), HasSubstr("tensor 'more' has no place in this model (1 more like it): choose"));
}

}  // namespace
}  // namespace syncbn
