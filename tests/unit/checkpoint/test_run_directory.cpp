#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <sys/wait.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <thread>

#include "credence/base/errors.h"
#include "credence/base/log.h"
#include "credence/base/stopwatch.h"
#include "credence/checkpoint/lock_owner.h"
#include "credence/checkpoint/run_directory.h"
#include "unit/checkpoint/sample.h"

namespace credence {
namespace {

using namespace credence::testing;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::string text_of(const std::filesystem::path& file) {
  const auto bytes = bytes_of_file(file);
  return {bytes.begin(), bytes.end()};
}

std::size_t entries(const std::filesystem::path& directory) {
  return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(directory), {}));
}

/// A child process that runs `work` and then waits to be killed.
class Child {
 public:
  template <class Work>
  explicit Child(Work&& work) {
    int ends[2];
    if (pipe(ends) != 0) throw std::runtime_error("pipe");
    id_ = fork();
    if (id_ == 0) {
      const auto kept = work();
      char ready = '.';
      if (write(ends[1], &ready, 1) != 1) _exit(1);
      for (;;) pause();
    }
    char ready = 0;
    close(ends[1]);
    if (read(ends[0], &ready, 1) != 1) throw std::runtime_error("the child died");
    close(ends[0]);
  }
  ~Child() { end(); }
  pid_t id() const { return id_; }
  void kill_only() const { kill(id_, SIGKILL); }
  void end() {
    if (id_ <= 0) return;
    kill(id_, SIGKILL);
    waitpid(id_, nullptr, 0);
    id_ = 0;
  }

 private:
  pid_t id_ = 0;
};

Child owner_of(const std::filesystem::path& directory) {
  return Child([&] { return std::make_unique<RunDirectoryLock>(directory); });
}

TEST(RunDirectoryLock, IsHeldUntilDestroyed) {
  const ScratchDirectory directory;
  {
    const RunDirectoryLock lock(directory.path());
    EXPECT_EQ(entries(directory.path()), 1U) << "the lock is one file";
    EXPECT_THAT(text_of(directory / "lock"), AllOf(HasSubstr(host_name()), HasSubstr(std::to_string(getpid()))));
    EXPECT_THAT(message_of<DirectoryInUseError>([&] { RunDirectoryLock{directory.path()}; }),
                AllOf(HasSubstr(fmt::format("process {}", getpid())), HasSubstr(host_name()),
                      HasSubstr(directory.path().string())));
    EXPECT_EQ(entries(directory.path()), 1U);
  }
  EXPECT_EQ(entries(directory.path()), 0U);
  const RunDirectoryLock again(directory.path());
}

TEST(RunDirectoryLock, MovesWithItsOwner) {
  const ScratchDirectory directory;
  auto first = std::make_unique<RunDirectoryLock>(directory.path());
  const RunDirectoryLock second = std::move(*first);
  first.reset();
  EXPECT_THROW(RunDirectoryLock{directory.path()}, DirectoryInUseError);
}

TEST(RunDirectoryLock, NamesAnotherProcessQuickly) {
  const ScratchDirectory directory;
  const Child owner = owner_of(directory.path());
  const Stopwatch watch;
  EXPECT_THAT(message_of<DirectoryInUseError>([&] { RunDirectoryLock{directory.path()}; }),
              HasSubstr(fmt::format("process {} on {}", owner.id(), host_name())));
  EXPECT_LT(watch.seconds(), 5.0);
}

TEST(RunDirectoryLock, IsTakenOverFromADeadProcessAtOnce) {
  const ScratchDirectory directory;
  Child owner = owner_of(directory.path());
  owner.kill_only();
  // Not yet waited for: a zombie runs no more.
  while (checkpoints::life_of(*checkpoints::parse_owner(text_of(directory / "lock"))) == checkpoints::Life::alive) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  const RunDirectoryLock lock(directory.path());
  EXPECT_THAT(text_of(directory / "lock"), HasSubstr(fmt::format("process {}\n", getpid())));
  owner.end();
  EXPECT_THROW(RunDirectoryLock{directory.path()}, DirectoryInUseError);
  EXPECT_EQ(entries(directory.path()), 1U);
}

TEST(RunDirectoryLock, IsNotFooledByAProcessNumberUsedAgain) {
  const ScratchDirectory directory;
  auto owner = checkpoints::this_process();
  ASSERT_GT(owner.started, 0);
  ++owner.started;  // the number is ours, the process was another
  write_text_file(directory / "lock", checkpoints::to_text(owner));
  EXPECT_NO_THROW(RunDirectoryLock{directory.path()});
}

TEST(RunDirectoryLock, TrustsTheHeartbeatOfAnotherMachine) {
  const ScratchDirectory directory;
  auto owner = checkpoints::this_process();
  owner.host = "node17";
  owner.machine = "another";
  write_text_file(directory / "lock", checkpoints::to_text(owner));
  EXPECT_THAT(message_of<DirectoryInUseError>([&] { RunDirectoryLock(directory.path(), 1000.0); }),
              HasSubstr("node17"));
  std::filesystem::last_write_time(directory / "lock",
                                   std::filesystem::file_time_type::clock::now() - std::chrono::seconds(900));
  EXPECT_THROW(RunDirectoryLock(directory.path(), 1000.0), DirectoryInUseError);
  std::filesystem::last_write_time(directory / "lock",
                                   std::filesystem::file_time_type::clock::now() - std::chrono::seconds(1100));
  EXPECT_NO_THROW(RunDirectoryLock(directory.path(), 1000.0));
}

TEST(RunDirectoryLock, TreatsAGarbledLockAsUnknownOwner) {
  const ScratchDirectory directory;
  write_text_file(directory / "lock", "");
  EXPECT_THAT(message_of<DirectoryInUseError>([&] { RunDirectoryLock{directory.path()}; }),
              HasSubstr("cannot be read"));
  std::filesystem::last_write_time(directory / "lock",
                                   std::filesystem::file_time_type::clock::now() - std::chrono::hours(1));
  EXPECT_NO_THROW(RunDirectoryLock{directory.path()});
}

TEST(RunDirectoryLock, BeatsWhileHeld) {
  const ScratchDirectory directory;
  const RunDirectoryLock lock(directory.path(), 0.2);
  const auto before = std::filesystem::last_write_time(directory / "lock");
  const Stopwatch watch;
  while (std::filesystem::last_write_time(directory / "lock") == before && watch.seconds() < 20) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_GT(std::filesystem::last_write_time(directory / "lock"), before);
}

TEST(RunDirectoryLock, NoticesWhenItIsLost) {
  const ScratchDirectory directory;
  const RunDirectoryLock first(directory.path(), 0.2);
  EXPECT_FALSE(first.lost());
  std::filesystem::remove(directory / "lock");
  const RunDirectoryLock second(directory.path());
  const Stopwatch watch;
  while (!first.lost() && watch.seconds() < 20) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_TRUE(first.lost());
  EXPECT_FALSE(second.lost());
}

TEST(RunDirectoryLock, IsNotLostWhereItCannotBeSeenForAWhile) {
  const ScratchDirectory directory;
  const auto run = directory / "run";
  const auto loop = directory / "loop";
  std::filesystem::create_directory(run);
  const RunDirectoryLock lock(run, 0.2);
  std::filesystem::create_symlink(run, loop);  // to itself, once it has the other's name: stat() fails with ELOOP
  const auto exchange = [&] { return renameat2(AT_FDCWD, run.c_str(), AT_FDCWD, loop.c_str(), RENAME_EXCHANGE); };
  ASSERT_EQ(exchange(), 0);
  std::this_thread::sleep_for(std::chrono::seconds(1));
  EXPECT_FALSE(lock.lost());
  ASSERT_EQ(exchange(), 0);
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_FALSE(lock.lost());
}

TEST(RunDirectoryLock, ReleasesOnlyItsOwn) {
  const ScratchDirectory directory;
  auto first = std::make_unique<RunDirectoryLock>(directory.path());
  std::filesystem::remove(directory / "lock");  // somebody forces it
  const RunDirectoryLock second(directory.path());
  first.reset();
  EXPECT_THROW(RunDirectoryLock{directory.path()}, DirectoryInUseError) << "the first took the second's lock away";
}

TEST(RunDirectoryLock, RemovesWhatAKilledWriterLeftAndNothingElse) {
  const ScratchDirectory directory;
  for (const char* name : {"checkpoint-00000003.h5.4711-0.tmp", "status.json.4711-3.tmp", "notes.tmp", "a.1-.tmp",
                           "checkpoint-00000003.h5", "config.ini"}) {
    write_bytes(directory / name, {'x'});
  }
  const RunDirectoryLock lock(directory.path());
  EXPECT_FALSE(std::filesystem::exists(directory / "checkpoint-00000003.h5.4711-0.tmp"));
  EXPECT_FALSE(std::filesystem::exists(directory / "status.json.4711-3.tmp"));
  for (const char* name : {"notes.tmp", "a.1-.tmp", "checkpoint-00000003.h5", "config.ini", "lock"}) {
    EXPECT_TRUE(std::filesystem::exists(directory / name)) << name;
  }
}

TEST(RunDirectoryLock, ReportsADirectoryThatCannotBeWritten) {
  const ScratchDirectory directory;
  EXPECT_THAT(message_of<StorageError>([&] { RunDirectoryLock{directory / "absent"}; }), HasSubstr("absent"));
  EXPECT_THAT(message_of<StorageError>([&] { RunDirectoryLock{"/proc"}; }), HasSubstr("/proc/lock"));
}

/// Several processes want one directory at the same moment: exactly one gets it, the others name it.
void race(const ScratchDirectory& directory, int contenders) {
  int start[2];
  int results[2];
  ASSERT_EQ(pipe(start), 0);
  ASSERT_EQ(pipe(results), 0);
  std::vector<pid_t> children;
  for (int i = 0; i < contenders; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      close(start[1]);
      char go = 0;
      if (read(start[0], &go, 1) != 0) _exit(3);  // ends when the parent closes it: all start together
      char result = '?';
      std::unique_ptr<RunDirectoryLock> lock;
      try {
        lock = std::make_unique<RunDirectoryLock>(directory.path());
        result = 'W';
      } catch (const DirectoryInUseError&) {
        result = 'L';
      } catch (...) {
        result = 'E';
      }
      if (write(results[1], &result, 1) != 1) _exit(4);
      for (;;) pause();
    }
    children.push_back(child);
  }
  close(start[0]);
  close(start[1]);
  std::string outcome;
  for (int i = 0; i < contenders; ++i) {
    char result = 0;
    ASSERT_EQ(read(results[0], &result, 1), 1);
    outcome += result;
  }
  for (const pid_t child : children) {
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
  }
  close(results[0]);
  close(results[1]);
  std::sort(outcome.begin(), outcome.end());
  EXPECT_EQ(outcome, std::string(static_cast<std::size_t>(contenders) - 1, 'L') + "W");
}

TEST(RunDirectoryLock, OneOfSeveralContendersWins) {
  for (int trial = 0; trial < 20; ++trial) {
    const ScratchDirectory directory;
    race(directory, 2 + trial % 4);
  }
}

TEST(RunDirectoryLock, OneOfSeveralContendersTakesOver) {
  const ScratchDirectory directory;
  { Child owner = owner_of(directory.path()); }
  // The winner of each race dies and leaves its lock for the next.
  for (int trial = 0; trial < 30; ++trial) {
    ASSERT_TRUE(std::filesystem::exists(directory / "lock"));
    race(directory, 2 + trial % 4);
  }
}

TEST(TextFile, IsReplacedAsAWhole) {
  const ScratchDirectory directory;
  write_text_file(directory / "status.json", "{\"step\": 1}\n");
  write_text_file(directory / "status.json", "{}");
  EXPECT_EQ(text_of(directory / "status.json"), "{}");
  EXPECT_EQ(entries(directory.path()), 1U);
  EXPECT_THAT(message_of<StorageError>([&] { write_text_file(directory / "absent" / "a.txt", "x"); }),
              HasSubstr("No such file"));
}

}  // namespace
}  // namespace credence
