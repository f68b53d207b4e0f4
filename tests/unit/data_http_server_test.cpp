#include "unit/data_http_server.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

namespace syncbn::test {
namespace {

bool send_all(int connection, const void* data, std::size_t n) {
  const char* at = static_cast<const char*>(data);
  while (n > 0) {
    const ssize_t sent = ::send(connection, at, n, MSG_NOSIGNAL);
    if (sent <= 0) return false;
    at += sent;
    n -= static_cast<std::size_t>(sent);
  }
  return true;
}

std::string read_request(int connection) {
  std::string request;
  char buffer[2048];
  while (request.find("\r\n\r\n") == std::string::npos) {
    const ssize_t n = ::recv(connection, buffer, sizeof buffer, 0);
    if (n <= 0) break;
    request.append(buffer, static_cast<std::size_t>(n));
  }
  return request;
}

}  // namespace

HttpServer::HttpServer() : listener_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (listener_ < 0 || ::bind(listener_, generic, size) != 0 || ::listen(listener_, 8) != 0 ||
      ::getsockname(listener_, generic, &size) != 0)
    throw std::runtime_error("cannot listen on 127.0.0.1");
  port_ = ntohs(address.sin_port);
  thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
}

std::string HttpServer::url() const {
  return fmt::format("http://127.0.0.1:{}", port_);
}

void HttpServer::serve(const std::string& path, Resource resource) {
  const std::lock_guard lock(mutex_);
  resources_[path] = std::move(resource);
  starts_.clear();
}

std::vector<std::size_t> HttpServer::starts() const {
  const std::lock_guard lock(mutex_);
  return starts_;
}

void HttpServer::stop() {
  if (!thread_.joinable()) return;
  thread_.request_stop();
  thread_.join();
  ::close(listener_);
}

void HttpServer::run(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    pollfd waiting{listener_, POLLIN, 0};
    if (::poll(&waiting, 1, 10) <= 0) continue;
    const int connection = ::accept(listener_, nullptr, nullptr);
    if (connection < 0) continue;
    answer(connection, stop);
    ::close(connection);
  }
}

void HttpServer::answer(int connection, const std::stop_token& stop) {
  const std::string request = read_request(connection);
  const std::size_t space = request.find(' ');
  if (space == std::string::npos) return;
  const std::string path = request.substr(space + 1, request.find(' ', space + 1) - space - 1);
  const std::size_t range = request.find("Range: bytes=");
  const std::size_t asked = range == std::string::npos ? 0 : std::strtoull(request.c_str() + range + 13, nullptr, 10);

  std::string head;
  std::vector<std::uint8_t> body;
  std::size_t bytes = 0;
  bool stall = false;
  {
    const std::lock_guard lock(mutex_);
    starts_.push_back(asked);
    const auto found = resources_.find(path);
    if (found == resources_.end()) {
      head = "404 Not Found";
    } else if (Resource& resource = found->second; resource.errors > 0) {
      --resource.errors;
      head = "503 Service Unavailable";
    } else if (resource.ranges && asked >= resource.body.size()) {
      head = "416 Range Not Satisfiable";
    } else {
      const std::size_t start = resource.ranges ? asked : 0;
      body.assign(resource.body.begin() + static_cast<std::ptrdiff_t>(start), resource.body.end());
      head = start ? fmt::format("206 Partial Content\r\nContent-Range: bytes {}-{}/{}", start,
                                 resource.body.size() - 1, resource.body.size())
                   : "200 OK";
      bytes = body.size();
      if (!resource.cuts.empty()) {
        bytes = std::min(bytes, resource.cuts.front());
        resource.cuts.erase(resource.cuts.begin());
        stall = resource.stall_at_cut;
      }
    }
  }
  head = fmt::format("HTTP/1.1 {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", head, body.size());
  if (!send_all(connection, head.data(), head.size()) || !send_all(connection, body.data(), bytes)) return;
  while (stall && !stop.stop_requested()) {
    pollfd peer{connection, POLLIN, 0};
    if (::poll(&peer, 1, 10) > 0) break;  // the client has hung up
  }
}

}  // namespace syncbn::test
