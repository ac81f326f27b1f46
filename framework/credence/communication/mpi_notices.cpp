#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "credence/base/errors.h"
#include "credence/communication/mpi_state.h"

namespace credence {

void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw CommunicationError(fmt::format("{} failed: {}", call, text));
}

std::int64_t steady_instant() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

NoticeBoard::Notice NoticeBoard::make(Kind kind, int exit_code, const std::string& text) {
  Notice notice;
  notice.kind = kind;
  notice.exit_code = exit_code;
  const std::size_t length = std::min(text.size(), sizeof notice.text - 1);
  std::memcpy(notice.text, text.data(), length);
  return notice;
}

void NoticeBoard::open(MPI_Comm world, double limit_seconds) {
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Comm_idup(world, &comm_, &request), "MPI_Comm_idup");
  complete_at_start(request, limit_seconds, "set up their first communicator");
  check_mpi(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(comm_, &size_), "MPI_Comm_size");
  left_.assign(static_cast<std::size_t>(size_), false);
  left_[static_cast<std::size_t>(rank_)] = true;
  answers_.resize(static_cast<std::size_t>(size_));
  receive();
}

void NoticeBoard::close() {
  if (incoming_request_ != MPI_REQUEST_NULL) {
    MPI_Cancel(&incoming_request_);
    MPI_Request_free(&incoming_request_);
  }
  MPI_Comm_free(&comm_);
}

void NoticeBoard::receive() {
  if (size_ == 1) return;
  check_mpi(
      MPI_Irecv(&incoming_, static_cast<int>(sizeof incoming_), MPI_BYTE, MPI_ANY_SOURCE, 0, comm_, &incoming_request_),
      "MPI_Irecv");
}

void NoticeBoard::poll(bool answer) {
  while (incoming_request_ != MPI_REQUEST_NULL) {
    int arrived = 0;
    MPI_Status status;
    check_mpi(MPI_Test(&incoming_request_, &arrived, &status), "MPI_Test");
    if (arrived == 0) break;
    const Notice notice = incoming_;
    receive();
    handle(notice, status.MPI_SOURCE, answer);
  }
  std::erase_if(outgoing_, [](Outgoing& message) {
    int sent = 0;
    return MPI_Test(&message.request, &sent, MPI_STATUS_IGNORE) != MPI_SUCCESS || sent != 0;
  });
}

std::string NoticeBoard::activity() const {
  for (const auto& [owner, describe] : activities) {
    if (std::string text = describe(); !text.empty()) return text;
  }
  return kWorking;
}

void NoticeBoard::handle(const Notice& notice, int source, bool answer) {
  switch (notice.kind) {
    case Kind::failure:
      if (!failure_) failure_ = RankFailure{source, notice.exit_code, notice.text};
      note_failure(notice.instant);
      break;
    case Kind::leaving:
      left_[static_cast<std::size_t>(source)] = true;
      any_blind_ = any_blind_ || notice.exit_code != 0;
      last_leaving_ = std::max(last_leaving_, notice.instant);
      break;
    case Kind::question: {
      if (!answer) break;
      Notice reply = make(Kind::answer, 0, activity());
      reply.question = notice.question;
      send(reply, source);
      break;
    }
    case Kind::answer:
      if (notice.question == question_) answers_[static_cast<std::size_t>(source)] = notice.text;
      break;
  }
}

void NoticeBoard::send(const Notice& notice, int rank) {
  Outgoing& message = outgoing_.emplace_back();
  message.notice = notice;
  check_mpi(
      MPI_Isend(&message.notice, static_cast<int>(sizeof message.notice), MPI_BYTE, rank, 0, comm_, &message.request),
      "MPI_Isend");
}

void NoticeBoard::send_to_all(const Notice& notice) {
  for (int rank = 0; rank < size_; ++rank) {
    if (rank != rank_) send(notice, rank);
  }
}

void NoticeBoard::announce_failure(int exit_code, const std::string& text) {
  if (announced_ || failure_) return;  // one cause is enough: the first
  announced_ = true;
  Notice notice = make(Kind::failure, exit_code, text);
  notice.instant = steady_instant();
  note_failure(notice.instant);
  send_to_all(notice);
}

void NoticeBoard::note_failure(std::int64_t instant) {
  constexpr std::int64_t kLongestWay = 2'000'000'000;  // older or later ones are of another machine's clock
  const std::int64_t now = steady_instant();
  if (instant > now || instant < now - kLongestWay) instant = now;
  first_failure_ = first_failure_ == 0 ? instant : std::min(first_failure_, instant);
}

double NoticeBoard::seconds_since_failure() const {
  return first_failure_ == 0 ? 0.0 : 1e-9 * static_cast<double>(steady_instant() - first_failure_);
}

void NoticeBoard::announce_leaving(bool blind) {
  any_blind_ = any_blind_ || blind;
  Notice notice = make(Kind::leaving, blind ? 1 : 0, "");
  notice.instant = steady_instant();
  last_leaving_ = std::max(last_leaving_, notice.instant);
  send_to_all(notice);
}

bool NoticeBoard::all_left() const {
  return std::find(left_.begin(), left_.end(), false) == left_.end();
}

void NoticeBoard::ask() {
  ++question_;
  std::fill(answers_.begin(), answers_.end(), std::string());
  answers_[static_cast<std::size_t>(rank_)] = "asks";
  Notice question = make(Kind::question, 0, "");
  question.question = question_;
  send_to_all(question);
}

bool NoticeBoard::all_answered() const {
  return std::none_of(answers_.begin(), answers_.end(), [](const std::string& answer) { return answer.empty(); });
}

}  // namespace credence
