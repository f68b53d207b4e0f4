#pragma once

#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace syncbn {

/// Whether the text is valid UTF-8: no stray bytes, overlong forms or surrogates.
bool is_utf8(std::string_view text);

/// Parses the whole text as a number; returns nothing if it is not one, or is too large for the type. Accepts "inf" and
/// "nan", but neither a plus sign nor spaces.
template <class T>
std::optional<T> parse_whole(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// "1 rank", "3 ranks".
std::string counted(std::int64_t count, const std::string& noun);

/// Removes the first line from a text and returns it without its line end.
std::string_view take_line(std::string_view& text);

/// Writes a number in hexadecimal digits so that read_exact() restores it to the bit; infinities and NaN are words.
std::string write_exact(double value);
/// Reads such a number. Throws Error(bad_data) for anything else.
double read_exact(const std::string& text);

/// Returns the candidate closest to `word` for "did you mean" messages, or "" if none is close: within two edits (one
/// for words of up to three letters), or a third of the longer word. An edit inserts, deletes or replaces a letter or
/// swaps two neighbours; case is ignored. The first of equally close candidates wins.
std::string nearest(const std::string& word, const std::vector<std::string>& candidates);

/// Returns "; did you mean 'CANDIDATE'?", the end of a message about an unknown word; `otherwise` if none is close.
std::string did_you_mean(const std::string& word, const std::vector<std::string>& candidates,
                         const std::string& otherwise = "");

/// Returns the message about a word that is not among the choices: "unknown 'WORD'; did you mean 'CHOICE'?", or, if
/// none is close, "'WORD' is not one of CHOICE, CHOICE".
std::string unknown(const std::string& word, const std::vector<std::string>& choices);

/// The text as a cell of a CSV file (RFC 4180), in quotes where it needs them.
std::string csv_cell(const std::string& text);

/// Formats a command with its arguments as a line that can be pasted into a POSIX shell.
std::string shell_line(const std::vector<std::string>& words);

}  // namespace syncbn
