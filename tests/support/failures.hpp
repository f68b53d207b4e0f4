#pragma once

#include <functional>
#include <string>

#include "syncbn/comm/world.hpp"

namespace syncbn::test {

/// The message with which a world's run fails; "" when it does not.
inline std::string failure_of(World& world, const std::function<void(Worker&)>& body) {
  try {
    world.run(body);
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace syncbn::test
