#include <fmt/format.h>

#include <algorithm>

#include "credence/base/log.h"
#include "credence/communication/mpi_state.h"

namespace credence {

namespace {

constexpr double kAnswerSeconds = 1.0;  // for the others to answer before they count as missing

}  // namespace

void Patience::saw(std::int64_t moves) {
  if (moves == moves_) return;
  moves_ = moves;
  unmoved_.restart();
  quiet_.restart();
  asking_.reset();
}

std::string Patience::look(const std::vector<int>& awaited) {
  if (!asking_) {
    state_.notices.ask();
    asking_.emplace();
    return {};
  }
  const bool over = asking_->seconds() > kAnswerSeconds;
  if (!state_.notices.all_answered()) return over ? blame(awaited) : std::string();
  if (one_left(awaited)) return blame(awaited);
  if (!one_works()) {
    // Somebody may have begun the operation just now: its messages get the same second.
    return over ? blame(awaited) : std::string();
  }
  tell_who_works();
  asking_.reset();
  quiet_.restart();
  return {};
}

bool Patience::one_works() const {
  const std::vector<std::string>& answers = state_.notices.answers();
  return std::find(answers.begin(), answers.end(), NoticeBoard::kWorking) != answers.end();
}

bool Patience::one_left(const std::vector<int>& awaited) const {
  return std::any_of(awaited.begin(), awaited.end(), [&](int rank) {
    return state_.notices.answers()[static_cast<std::size_t>(rank)].starts_with(NoticeBoard::kLeaving);
  });
}

void Patience::tell_who_works() const {
  std::vector<std::string> names;
  bool first = true;  // of those that wait: one of them shall be seen
  for (int rank = 0; rank < state_.size; ++rank) {
    if (state_.notices.answers()[static_cast<std::size_t>(rank)] == NoticeBoard::kWorking) {
      names.push_back(state_.name_of_rank(rank));
    } else {
      first = first && rank >= state_.rank;
    }
  }
  const std::string text = fmt::format("{} has waited {:.0f} s for {}, still at work: waiting on",
                                       state_.name_of_rank(state_.rank), seconds(), fmt::join(names, ", "));
  first ? log_warning("{}", text) : log_info("{}", text);
}

std::string Patience::blame(const std::vector<int>& awaited) const {
  const std::vector<std::string>& answers = state_.notices.answers();
  std::vector<std::string> silent;
  std::vector<std::string> elsewhere;
  for (int rank = 0; rank < state_.size; ++rank) {
    const std::string& answer = answers[static_cast<std::size_t>(rank)];
    if (answer.empty()) silent.push_back(state_.name_of_rank(rank));
    const bool blamed =
        awaited.empty() ? rank != state_.rank : std::find(awaited.begin(), awaited.end(), rank) != awaited.end();
    if (blamed) elsewhere.push_back(fmt::format("{} ({})", state_.name_of_rank(rank), answer));
  }
  if (!silent.empty()) return fmt::format("no answer from {}", fmt::join(silent, ", "));
  return fmt::format("missing, though they answer: {}", fmt::join(elsewhere, ", "));
}

}  // namespace credence
