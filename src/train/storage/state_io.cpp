#include "train/storage/state_io.hpp"

#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>

#include "syncbn/core/error.hpp"

namespace syncbn {

namespace {

using Visit = std::function<void(const std::string& name, const std::vector<std::int64_t>& shape, FlatRange range)>;

/// Calls `visit` for every f32 tensor of the model: parameters, then running statistics.
void for_each_tensor(ModelState& state, const Visit& visit) {
  const std::vector<ParameterSpec>& parameters = state.model().parameters;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    visit(parameters[i].name, parameters[i].dims, state.parameter(static_cast<int>(i)));
  }
  for (const NormState& s : state.norm_states()) {
    visit(s.name + ".running_mean", {s.mean.count}, s.mean);
    visit(s.name + "." + s.var_name, s.var_dims, s.var);
  }
}

constexpr const char* kOtherModel =
    "choose the model.name and norm.* that the weights are of (a training can leave tensors out: model.weights_except)";

/// What to do where a tensor has not the shape that the weights have. resnet18 and its kin have another stem for small
/// images, so that the right name is not enough.
std::string remedy_for(const std::string& tensor, const StoredTensor& stored, const std::vector<std::int64_t>& shape) {
  const auto is_stem = [](const std::vector<std::int64_t>& dims, std::int64_t kernel) {
    return dims.size() == 4 && dims[0] == 64 && dims[2] == kernel && dims[3] == kernel;
  };
  const bool large = is_stem(stored.shape, 7) && is_stem(shape, 3),
             small = is_stem(stored.shape, 3) && is_stem(shape, 7);
  if (tensor != "conv1.weight" || !(large || small)) return kOtherModel;
  return fmt::format("for images below 64 pixels resnet18/34/50 have another first layer: set data.image_size={}",
                     large ? "64 or more, as 224" : "32, or another size below 64");
}

[[noreturn]] void refuse_value(const std::string& origin, const std::string& name, float value, const char* what) {
  throw Error(fmt::format("{}: tensor {} holds {}, which is no {}: take other weights (a training can leave it out: "
                          "model.weights_except)",
                          origin, name, value, what),
              ExitCode::bad_data);
}

/// "module." (DistributedDataParallel), "_orig_mod." (torch.compile) or both, if all names of the file start with it
/// and none of the model's.
std::string wrapper_of(ModelState& state, const SafetensorsFile& file) {
  if (file.tensors.empty()) return "";
  std::string prefix;
  const auto longer = [&](const std::string& wrapper) {
    const auto starts = [&](const auto& tensor) { return tensor.first.starts_with(prefix + wrapper); };
    if (!std::all_of(file.tensors.begin(), file.tensors.end(), starts)) return false;
    prefix += wrapper;
    return true;
  };
  while (longer("module.") || longer("_orig_mod.")) {
  }
  bool own = false;
  for_each_tensor(state, [&](const std::string& name, const std::vector<std::int64_t>&, FlatRange) {
    own = own || name.starts_with("module.") || name.starts_with("_orig_mod.");
  });
  return own ? "" : prefix;
}

std::string buffer_name(const std::string& buffer, const std::string& parameter) {
  return "optimizer." + buffer + "." + parameter;
}

}  // namespace

SafetensorsFile store_model(ModelState& state) {
  state.fetch();
  SafetensorsFile file;
  file.metadata["format"] = "pt";
  for_each_tensor(state, [&](const std::string& name, const std::vector<std::int64_t>& shape, FlatRange range) {
    file.put_f32(name, shape, state.values(range));
  });
  for (const NormState& s : state.norm_states()) file.put_i64(s.name + ".num_batches_tracked", s.batches_tracked);
  return file;
}

std::string load_model(ModelState& state, const SafetensorsFile& file, const std::vector<std::string>& except) {
  const std::string prefix = wrapper_of(state, file);
  std::set<std::string> idle(except.begin(), except.end()), unknown;
  const auto excepted = [&](const std::string& name) {
    bool found = false;
    for (const std::string& pattern : except) {
      if (fnmatch(pattern.c_str(), name.c_str(), 0) != 0) continue;
      idle.erase(pattern);
      found = true;
    }
    return found;
  };
  for (const auto& [stored, tensor] : file.tensors) {
    const std::string name = stored.substr(prefix.size());
    if (!excepted(name)) unknown.insert(name);
  }
  for_each_tensor(state, [&](const std::string& name, const std::vector<std::int64_t>& shape, FlatRange range) {
    unknown.erase(name);
    if (excepted(name)) return;
    try {
      const std::vector<float> values = file.f32(prefix + name, shape);
      std::copy(values.begin(), values.end(), state.values(range).begin());
    } catch (const Error& e) {
      const auto stored = file.tensors.find(prefix + name);
      std::string remedy = kOtherModel;
      if (stored != file.tensors.end())
        remedy = stored->second.shape == shape ? "convert it to F16, BF16, F32 or F64"
                                               : remedy_for(name, stored->second, shape);
      throw Error(fmt::format("{}; {}", e.what(), remedy), e.code());
    }
  });
  for (NormState& s : state.norm_states()) {
    const std::string name = s.name + ".num_batches_tracked";
    unknown.erase(name);
    // Files of PyTorch before 0.4.1, such as torchvision's ResNets, do not count batches.
    if (!excepted(name)) s.batches_tracked = file.tensors.contains(prefix + name) ? file.i64(prefix + name) : 0;
  }
  if (!idle.empty())
    throw Error(fmt::format("model.weights_except: no tensor of the model or the weights matches '{}'", *idle.begin()),
                ExitCode::usage);
  if (!unknown.empty()) {
    const std::string more = unknown.size() > 1 ? fmt::format(" ({} more like it)", unknown.size() - 1) : "";
    throw Error(fmt::format("{}: tensor '{}' has no place in this model{}: {}", file.origin, *unknown.begin(), more,
                            kOtherModel),
                ExitCode::bad_data);
  }
  state.send();
  return prefix;
}

void require_finite(ModelState& state, const std::string& origin) {
  for_each_tensor(state, [&](const std::string& name, const std::vector<std::int64_t>&, FlatRange range) {
    for (const float v : state.values(range)) {
      if (!std::isfinite(v)) refuse_value(origin, name, v, "float32 number");
    }
  });
  // Evaluations divide by the square root of variances; a covariance may be negative.
  for (const NormState& s : state.norm_states()) {
    for (const float v : state.values(s.var)) {
      if (v < 0 && s.var_dims.size() == 1) refuse_value(origin, s.name + "." + s.var_name, v, "variance");
    }
  }
}

std::string left_off_text(const std::string& prefix, const std::string& weights) {
  return fmt::format("the names of all tensors in {} start with '{}': read without it", weights, prefix);
}

SafetensorsFile store_optimizer(const ModelState& state, Optimizer& optimizer) {
  optimizer.fetch_state();
  SafetensorsFile file;
  const std::vector<ParameterSpec>& parameters = state.model().parameters;
  const std::vector<std::string> names = optimizer.state_names();
  for (std::size_t b = 0; b < names.size(); ++b) {
    const std::span<float> buffer = optimizer.state(static_cast<int>(b));
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const FlatRange r = state.parameter(static_cast<int>(i));
      file.put_f32(buffer_name(names[b], parameters[i].name), parameters[i].dims, buffer.subspan(r.offset, r.count));
    }
  }
  return file;
}

void load_optimizer(const ModelState& state, Optimizer& optimizer, const SafetensorsFile& file) {
  const std::vector<ParameterSpec>& parameters = state.model().parameters;
  const std::vector<std::string> names = optimizer.state_names();
  for (std::size_t b = 0; b < names.size(); ++b) {
    const std::span<float> buffer = optimizer.state(static_cast<int>(b));
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const std::vector<float> values = file.f32(buffer_name(names[b], parameters[i].name), parameters[i].dims);
      std::copy(values.begin(), values.end(), buffer.begin() + state.parameter(static_cast<int>(i)).offset);
    }
  }
  optimizer.send_state();
}

std::vector<ParameterSlot> parameter_slots(const ModelState& state) {
  std::vector<ParameterSlot> slots;
  const std::vector<ParameterSpec>& parameters = state.model().parameters;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const FlatRange r = state.parameter(static_cast<int>(i));
    const ParameterKind kind = parameters[i].kind;
    const bool norm_or_bias = kind != ParameterKind::weight && kind != ParameterKind::weight_gain;
    slots.push_back({parameters[i].name, r.offset, r.count, norm_or_bias});
  }
  std::sort(slots.begin(), slots.end(), [](const auto& a, const auto& b) { return a.offset < b.offset; });
  return slots;
}

}  // namespace syncbn
