#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "syncbn/comm/communicator.hpp"

namespace syncbn::test {

enum class Kind { f32, f64, i64, broadcast, barrier };

/// One collective call, as data.
struct Call {
  const char* layer = "bn1";
  std::int64_t step = 7;
  Kind kind = Kind::f64;
  Reduce reduce = Reduce::sum;
  std::size_t count = 33;
  int root = 0;
};

inline void make(const Communicator& communicator, const Call& call) {
  const Tag tag{call.layer, call.step};
  std::vector<double> memory(call.count, 1.0);
  switch (call.kind) {
    case Kind::f32: {
      std::vector<float> values(call.count, 1.0F);
      return communicator.all_reduce(std::span<float>(values), call.reduce, tag);
    }
    case Kind::i64: {
      std::vector<std::int64_t> values(call.count, 1);
      return communicator.all_reduce(std::span<std::int64_t>(values), call.reduce, tag);
    }
    case Kind::f64:
      return communicator.all_reduce(std::span<double>(memory), call.reduce, tag);
    case Kind::broadcast:
      return communicator.broadcast(std::as_writable_bytes(std::span<double>(memory)), call.root, tag);
    case Kind::barrier:
      return communicator.barrier(tag);
  }
}

/// What one worker does differently from the others, and what the message must say.
struct Disagreement {
  const char* field;
  Call usual, other;
  const char *usual_text, *other_text;
};

inline const std::array<Disagreement, 9>& disagreements() {
  constexpr Reduce kSum = Reduce::sum;
  static const std::array<Disagreement, 9> all{{
      {"layer", {}, {.layer = "bn2"}, "layer 'bn1' step 7 (all_reduce sum f64 x 33)", "layer 'bn2' step 7"},
      {"step", {}, {.step = 8}, "step 7", "step 8"},
      {"operation", {}, {.kind = Kind::barrier}, "(all_reduce sum f64 x 33)", "(barrier)"},
      {"reduce operation", {}, {.reduce = Reduce::max}, "all_reduce sum f64 x 33", "all_reduce max f64 x 33"},
      {"count", {}, {.count = 34}, "f64 x 33", "f64 x 34"},
      {"count", {}, {.count = 20000}, "f64 x 33", "f64 x 20000"},  // whole against sharded
      {"type", {}, {.kind = Kind::f32}, "f64 x 33", "f32 x 33"},
      {"type", {.reduce = kSum, .count = 9000}, {.kind = Kind::i64, .count = 9000}, "f64 x 9000", "i64 x 9000"},
      {"root", {.kind = Kind::broadcast}, {.kind = Kind::broadcast, .root = 1}, "from worker 0", "from worker 1"},
  }};
  return all;
}

}  // namespace syncbn::test
