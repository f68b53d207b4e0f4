#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

// What each file in this folder defines for its format.
namespace syncbn::fuzz {

/// Well-formed inputs to start from.
std::vector<std::string> seeds();
/// Reads an input, whatever it is: returns, or throws Error. Checks what must hold of a value.
void read(std::string_view input);

// What they share.

/// Throws std::logic_error.
void require(bool holds, const char* what);
/// The input's parts, cut at NUL bytes: at most `n`, the last one with all that is left; absent ones are empty.
std::vector<std::string> parts(std::string_view input, std::size_t n);
/// A text, and the overrides behind it, of which none is empty; at most `n` parts.
std::pair<std::string, std::vector<std::string>> text_and_overrides(std::string_view input, std::size_t n);
/// The reverse of parts().
std::string joined(const std::vector<std::string>& parts);
/// A folder that goes away at the end of the program.
const std::string& folder();
/// Writes a file there, or removes it where there are no bytes. Its path.
std::string file(const std::string& name, std::string_view bytes);

}  // namespace syncbn::fuzz

/// libFuzzer's entry points.
extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv);
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
