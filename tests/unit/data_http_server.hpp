#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace syncbn::test {

/// What an HttpServer answers to one path.
struct Resource {
  std::vector<std::uint8_t> body = {};
  bool ranges = true;                  ///< honours "Range: bytes=N-"
  std::vector<std::size_t> cuts = {};  ///< the k-th answer ends after this many bytes of its body
  bool stall_at_cut = false;           ///< keeps the connection open there instead of closing it
  int errors = 0;                      ///< so many answers are 503 first
};

/// A web server on 127.0.0.1 that fails on demand. One connection at a time.
class HttpServer {
 public:
  HttpServer();
  ~HttpServer() { stop(); }
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  std::string url() const;
  /// Also forgets the requests seen so far.
  void serve(const std::string& path, Resource resource);
  /// First byte asked for, of each request so far.
  std::vector<std::size_t> starts() const;
  void stop();

 private:
  void run(const std::stop_token& stop);
  void answer(int connection, const std::stop_token& stop);

  int listener_ = -1;
  int port_ = 0;
  mutable std::mutex mutex_;
  std::map<std::string, Resource> resources_;
  std::vector<std::size_t> starts_;
  std::jthread thread_;
};

}  // namespace syncbn::test
