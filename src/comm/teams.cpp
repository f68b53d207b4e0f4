#include "comm/teams.hpp"

#include <deque>
#include <list>
#include <mutex>
#include <thread>

#include "comm/links/mpi_handles.hpp"
#include "comm/rank_context.hpp"

namespace syncbn {

namespace {

constexpr int kLetterTag = 0;
constexpr auto kNap = std::chrono::milliseconds(1);

struct Outgoing {
  std::string text;
  MPI_Request request = MPI_REQUEST_NULL;
};

}  // namespace

struct Teams::Impl {
  detail::OwnedComm comm;  // null: this process alone
  int ranks = 1;
  int rank = 0;
  std::mutex mutex;
  std::deque<Letter> own;  // letters of this rank to itself
  std::list<Outgoing> outgoing;

  /// Forgets the letters that MPI no longer needs.
  void collect_sent() {
    for (auto it = outgoing.begin(); it != outgoing.end();) {
      int done = 0;
      detail::check_mpi(MPI_Test(&it->request, &done, MPI_STATUS_IGNORE), "MPI_Test");
      it = done ? outgoing.erase(it) : std::next(it);
    }
  }
};

Teams::Teams() : impl_(std::make_unique<Impl>()) {}

Teams::Teams(int fortran_comm) : impl_(std::make_unique<Impl>()) {
  impl_->comm = detail::duplicate_of(MPI_Comm_f2c(fortran_comm));
  detail::check_mpi(MPI_Comm_size(impl_->comm.get(), &impl_->ranks), "MPI_Comm_size");
  detail::check_mpi(MPI_Comm_rank(impl_->comm.get(), &impl_->rank), "MPI_Comm_rank");
}

Teams::~Teams() = default;

int Teams::ranks() const {
  return impl_->ranks;
}
int Teams::rank() const {
  return impl_->rank;
}

void Teams::send(int to, const std::string& text) {
  const std::lock_guard lock(impl_->mutex);
  if (to == impl_->rank) {
    impl_->own.push_back({to, text});
    return;
  }
  impl_->collect_sent();
  Outgoing& letter = impl_->outgoing.emplace_back(Outgoing{text});
  detail::check_mpi(MPI_Isend(letter.text.data(), static_cast<int>(letter.text.size()), MPI_BYTE, to, kLetterTag,
                              impl_->comm.get(), &letter.request),
                    "MPI_Isend");
}

std::optional<Teams::Letter> Teams::receive() {
  const std::lock_guard lock(impl_->mutex);
  if (!impl_->own.empty()) {
    Letter letter = std::move(impl_->own.front());
    impl_->own.pop_front();
    return letter;
  }
  if (impl_->ranks == 1) return std::nullopt;
  impl_->collect_sent();
  int found = 0;
  MPI_Message handle = MPI_MESSAGE_NULL;
  MPI_Status status;
  detail::check_mpi(MPI_Improbe(MPI_ANY_SOURCE, kLetterTag, impl_->comm.get(), &found, &handle, &status),
                    "MPI_Improbe");
  if (!found) return std::nullopt;
  int bytes = 0;
  detail::check_mpi(MPI_Get_count(&status, MPI_BYTE, &bytes), "MPI_Get_count");
  Letter letter{status.MPI_SOURCE, std::string(static_cast<std::size_t>(bytes), '\0')};
  detail::check_mpi(MPI_Mrecv(letter.text.data(), bytes, MPI_BYTE, &handle, MPI_STATUS_IGNORE), "MPI_Mrecv");
  return letter;
}

void Teams::flush() {
  for (;; std::this_thread::sleep_for(kNap)) {
    const std::lock_guard lock(impl_->mutex);
    impl_->collect_sent();
    if (impl_->outgoing.empty()) return;
  }
}

World Teams::make_world(const WorldOptions& options, const std::vector<int>& members, int tag) const {
  if (members.size() == 1) return World::threads(options);
  const detail::OwnedComm team = detail::make_comm(impl_->comm.get(), members, tag);  // duplicated by the world
  World world = World::mpi(options, MPI_Comm_c2f(team.get()));
  world.context()->keep_quiet();  // its rank numbers differ from the job's
  return world;
}

}  // namespace syncbn
