#include "comm/links/header.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "syncbn/core/error.hpp"

namespace syncbn::detail {

namespace {

const char* operation_name(Operation operation) {
  switch (operation) {
    case Operation::all_reduce:
      return "all_reduce";
    case Operation::broadcast:
      return "broadcast";
    case Operation::barrier:
      return "barrier";
    case Operation::duplicate:
      return "duplicate";
    case Operation::group:
      return "group";
    case Operation::node_group:
      return "node_group";
  }
  return "unknown operation";
}

std::string describe_operation(const Header& h) {
  switch (h.operation) {
    case Operation::all_reduce:
      return fmt::format("all_reduce {} {} x {}", name_of(h.reduce), name_of(h.type), h.count);
    case Operation::broadcast:
      return fmt::format("broadcast of {} bytes from worker {}", h.count, h.root);
    case Operation::group:
      return fmt::format("group of {}", h.count);
    default:
      return operation_name(h.operation);
  }
}

/// Returns the name of the first field in which two members' headers differ, or nullptr.
const char* first_difference(const Header& a, const Header& b) {
  if (a.magic != b.magic) return "message format";
  if (a.layer != b.layer) return "layer";
  if (a.step != b.step) return "step";
  if (a.operation != b.operation) return "operation";
  if (a.reduce != b.reduce) return "reduce operation";
  if (a.type != b.type) return "type";
  if (a.count != b.count) return "count";
  if (a.root != b.root) return "root";
  if (a.sequence != b.sequence) return "sequence";
  return nullptr;
}

}  // namespace

Header Header::make(Operation operation, const Tag& tag) {
  Header header;
  header.operation = operation;
  header.step = tag.step;
  const std::size_t length = std::min(tag.layer.size(), header.layer.size() - 1);
  std::copy_n(tag.layer.begin(), length, header.layer.begin());
  return header;
}

std::string describe(const Header& h) {
  // A header may come from another process: neither its terminator nor that it is text can be trusted.
  std::string layer(h.layer.begin(), std::find(h.layer.begin(), h.layer.end(), '\0'));
  std::ranges::replace_if(
      layer, [](char c) { return c < ' ' || c > '~'; }, '?');
  return fmt::format("layer '{}' step {} ({})", layer, h.step, describe_operation(h));
}

void require_equal(const Header& a, int who_a, const Header& b, int who_b,
                   const std::function<std::string(int)>& name_of_side) {
  const char* field = first_difference(a, b);
  if (!field) return;
  throw Error(
      fmt::format("{} is at {}, but {} is at {}: the {} differs (call {} against {}); all members must make "
                  "the same calls in the same order",
                  name_of_side(who_a), describe(a), name_of_side(who_b), describe(b), field, a.sequence, b.sequence));
}

}  // namespace syncbn::detail
