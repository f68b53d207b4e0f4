// Tensors, and weights of a network.

#include "train/storage/safetensors.hpp"

#include "fuzz/target.hpp"
#include "syncbn/core/error.hpp"
#include "train/storage/durable_file.hpp"
#include "train/storage/state_io.hpp"

namespace syncbn::fuzz {
namespace {

ModelState& network() {
  ModelOptions options{.name = "mlp", .layers = {}, .input = {1, 1, 2, 2}, .classes = 2, .hidden = {3}};
  static const auto backend = ops::make_cpu_backend();
  static ModelState state(make_model(options), {}, *backend);
  return state;
}

}  // namespace

std::vector<std::string> seeds() {
  SafetensorsFile file;
  file.metadata["format"] = "pt";
  const std::string start = text_of(file.serialize());
  file.put_f32("fc.weight", {2, 3}, std::vector<float>(6, 0.5f));
  file.put_f32("bn.running_mean", {0}, {});
  file.put_i64("bn.num_batches_tracked", 7);
  for (const char* dtype : {"F16", "BF16"}) file.tensors[dtype] = {dtype, {3}, std::vector<std::byte>(6)};
  file.tensors["F64"] = {"F64", {1, 1}, std::vector<std::byte>(8)};
  return {start, text_of(file.serialize()), text_of(store_model(network()).serialize())};
}

void read(std::string_view input) {
  const SafetensorsFile file = SafetensorsFile::parse(std::as_bytes(std::span(input)), "file");
  const std::vector<std::byte> bytes = file.serialize();
  require(SafetensorsFile::parse(bytes, "again").serialize() == bytes, "the same again");
  for (const auto& [name, tensor] : file.tensors) {
    try {
      if (tensor.dtype == "I64") file.i64(name);
      if (tensor.dtype != "I64") file.f32(name, tensor.shape);
    } catch (const Error&) {  // of another type, such as U8
    }
  }
  load_model(network(), file);
  require_finite(network(), "file");
}

}  // namespace syncbn::fuzz
