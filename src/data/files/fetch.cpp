#include "data/files/fetch.hpp"

#include <curl/curl.h>
#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <memory>
#include <thread>

#include "data/files/part_file.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn {
namespace {

constexpr long kRangeNotSatisfiable = 416;

enum class Outcome { done, retry, start_over, give_up };

/// One transfer of a file.
class Transfer {
 public:
  Transfer(const std::string& url, PartFile& part, std::uint64_t bytes,
           const std::function<void(std::uint64_t, std::uint64_t)>& progress, const FetchPolicy& policy)
      : part_(part),
        bytes_(bytes),
        limit_(bytes ? bytes : policy.max_bytes),
        progress_(progress),
        curl_(curl_easy_init()) {
    if (!curl_) throw Error("libcurl cannot be started", ExitCode::unavailable);
    set(CURLOPT_URL, url.c_str());
    set(CURLOPT_FOLLOWLOCATION, 1L);
    set(CURLOPT_MAXREDIRS, 5L);
    set(CURLOPT_FAILONERROR, 1L);  // an error page is not data
    set(CURLOPT_NOSIGNAL, 1L);
    set(CURLOPT_USERAGENT, "syncbn");
    set(CURLOPT_CONNECTTIMEOUT, policy.connect_timeout_s);
    set(CURLOPT_LOW_SPEED_LIMIT, 1000L);
    set(CURLOPT_LOW_SPEED_TIME, policy.stall_timeout_s);
    set(CURLOPT_ERRORBUFFER, message_);
    set(CURLOPT_WRITEFUNCTION, &Transfer::on_data);
    set(CURLOPT_WRITEDATA, this);
  }

  /// Appends to the part file. Rethrows errors of writing it.
  Outcome attempt() {
    message_[0] = 0;
    set(CURLOPT_RESUME_FROM_LARGE, static_cast<curl_off_t>(part_.size()));
    const CURLcode code = curl_easy_perform(curl_.get());
    if (error_) std::rethrow_exception(error_);
    reason_ = message_[0] ? message_ : curl_easy_strerror(code);
    return judge(code);
  }
  const std::string& reason() const { return reason_; }

 private:
  struct Cleanup {
    void operator()(CURL* curl) const { curl_easy_cleanup(curl); }
  };
  template <class Value>
  void set(CURLoption option, Value value) {
    if (const CURLcode code = curl_easy_setopt(curl_.get(), option, value); code != CURLE_OK)
      throw Error(fmt::format("libcurl refuses option {}: {}", static_cast<int>(option), curl_easy_strerror(code)));
  }

  Outcome judge(CURLcode code) {
    switch (code) {
      case CURLE_OK:
        if (status() == kRangeNotSatisfiable) return Outcome::start_over;  // libcurl takes it for "nothing left to do"
        if (part_.size() >= bytes_) return Outcome::done;
        reason_ = fmt::format("the connection ended after {} of {} bytes", part_.size(), bytes_);
        return Outcome::retry;
      case CURLE_RANGE_ERROR:
        return Outcome::start_over;
      case CURLE_HTTP_RETURNED_ERROR:
        return judge_status();
      case CURLE_UNSUPPORTED_PROTOCOL:
      case CURLE_URL_MALFORMAT:
      case CURLE_PEER_FAILED_VERIFICATION:
        return Outcome::give_up;
      default:
        return Outcome::retry;
    }
  }

  Outcome judge_status() const {
    constexpr long kTimeout = 408, kTooMany = 429, kServerError = 500;
    const long code = status();
    if (code == kRangeNotSatisfiable) return Outcome::start_over;
    return code >= kServerError || code == kTimeout || code == kTooMany ? Outcome::retry : Outcome::give_up;
  }

  long status() const {
    long code = 0;
    curl_easy_getinfo(curl_.get(), CURLINFO_RESPONSE_CODE, &code);
    return code;
  }

  static std::size_t on_data(char* data, std::size_t, std::size_t n, void* self) {
    auto& transfer = *static_cast<Transfer*>(self);
    try {
      transfer.take(data, n);
      return n;
    } catch (...) {  // must not propagate through libcurl
      transfer.error_ = std::current_exception();
      return 0;
    }
  }

  void take(const char* data, std::size_t n) {
    if (part_.size() + n > limit_) {
      part_.clear();
      throw Error(
          fmt::format("the server sends more than the {} bytes of the official file; try again later, or a mirror: "
                      "SYNCBN_DATA_MIRROR=URL",
                      limit_),
          ExitCode::bad_data);
    }
    part_.append(data, n);
    if (progress_) progress_(part_.size(), bytes_);
  }

  PartFile& part_;
  const std::uint64_t bytes_;
  const std::uint64_t limit_;
  const std::function<void(std::uint64_t, std::uint64_t)>& progress_;
  std::unique_ptr<CURL, Cleanup> curl_;
  char message_[CURL_ERROR_SIZE] = {};
  std::string reason_;
  std::exception_ptr error_;
};

}  // namespace

std::shared_ptr<const void> fetch(const std::string& url, const std::filesystem::path& part_path, std::uint64_t bytes,
                                  const std::function<void(std::uint64_t, std::uint64_t)>& progress,
                                  const FetchPolicy& policy) {
  const std::shared_ptr<PartFile> locked = PartFile::open(part_path);
  if (!locked)
    throw Error(fmt::format("{} is being fetched by another process; wait for it to end", part_path.string()),
                ExitCode::unavailable);
  PartFile& part = *locked;
  if (bytes && part.size() > bytes) part.clear();
  if (!bytes || part.size() < bytes) {
    Transfer transfer(url, part, bytes, progress, policy);
    std::uint64_t furthest = part.size();
    for (int failures = 0;;) {
      const Outcome outcome = transfer.attempt();
      if (outcome == Outcome::done) break;
      if (outcome == Outcome::start_over) part.clear();
      if (part.size() > furthest) failures = 0;
      furthest = std::max(furthest, part.size());
      if (outcome == Outcome::give_up || ++failures >= policy.attempts)
        throw Error(fmt::format("cannot fetch {}: {}; try again (it goes on where it stopped), or use a mirror: "
                                "SYNCBN_DATA_MIRROR=URL",
                                url, transfer.reason()),
                    ExitCode::unavailable);
      if (outcome == Outcome::retry) std::this_thread::sleep_for(policy.first_pause * (1 << (failures - 1)));
    }
  }
  part.sync();
  return locked;
}

}  // namespace syncbn
