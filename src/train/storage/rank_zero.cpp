#include "train/storage/rank_zero.hpp"

#include <exception>

#include "core/console.hpp"
#include "syncbn/core/error.hpp"
#include "train/storage/checkpoint.hpp"
#include "train/storage/durable_file.hpp"

namespace syncbn {

void on_rank_zero(const World& world, const std::function<void()>& work) {
  std::string failure;
  ExitCode code = ExitCode::ok;
  if (world.rank() == 0) {
    try {
      work();
    } catch (const Error& e) {
      failure = e.what();
      code = e.code();
    } catch (const std::exception& e) {
      failure = message_of(e);
      code = ExitCode::failure;
    }
  }
  failure = world.broadcast(failure);
  if (!failure.empty())
    throw Error(failure, static_cast<ExitCode>(std::stoi(world.broadcast(std::to_string(static_cast<int>(code))))));
}

SafetensorsFile broadcast(const World& world, const SafetensorsFile& file, const std::string& origin) {
  std::string bytes;
  on_rank_zero(world, [&] { bytes = text_of(file.serialize()); });
  bytes = world.broadcast(bytes);
  return SafetensorsFile::parse(std::as_bytes(std::span(bytes)), origin);
}

SafetensorsFile read_weights(const World& world, const std::string& path) {
  SafetensorsFile weights;
  on_rank_zero(world, [&] { weights = CheckpointStore::load(path).model; });
  return broadcast(world, weights, path);
}

}  // namespace syncbn
