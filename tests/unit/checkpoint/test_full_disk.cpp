// Each system call of the save path fails in turn, with each error that disks give: the error is reported, what was
// there stays, nothing half done remains. The calls are replaced at link time, HDF5's own included.

#include <dlfcn.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <set>

#include "credence/base/errors.h"
#include "credence/checkpoint/background_writer.h"
#include "credence/checkpoint/run_directory.h"
#include "unit/checkpoint/sample.h"

namespace {

/// What the chosen call does where it is a write: fails, takes half of its bytes, or changes a bit and reports success.
/// Any other call fails.
enum class Fault { fail, halve, lie };

/// Counts calls while armed; the chosen one fails.
struct Faults {
  std::atomic<bool> armed{false};
  std::atomic<int> calls{0};
  int fail_at = 0;
  int error = 0;
  Fault kind = Fault::fail;
  const char* failed = "none";  // the call that failed
};
Faults faults;

bool fails(const char* call) {
  if (!faults.armed || ++faults.calls != faults.fail_at) return false;
  faults.failed = call;
  errno = faults.error;
  return true;
}

template <class Function>
Function next(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

ssize_t pwrite(int fd, const void* data, size_t size, off_t offset) {
  static const auto real = next<ssize_t (*)(int, const void*, size_t, off_t)>("pwrite");
  if (fails("pwrite")) {
    if (faults.kind == Fault::fail) return -1;
    if (faults.kind == Fault::lie) {
      std::vector<char> changed(static_cast<const char*>(data), static_cast<const char*>(data) + size);
      changed[size / 2] ^= 1;
      return real(fd, changed.data(), size, offset);
    }
    size = (size + 1) / 2;
  }
  return real(fd, data, size, offset);
}

int fsync(int fd) {
  static const auto real = next<int (*)(int)>("fsync");
  return fails("fsync") ? -1 : real(fd);
}

int rename(const char* from, const char* to) noexcept {
  static const auto real = next<int (*)(const char*, const char*)>("rename");
  return fails("rename") ? -1 : real(from, to);
}

int fallocate(int fd, int mode, off_t offset, off_t length) {
  static const auto real = next<int (*)(int, int, off_t, off_t)>("fallocate");
  return fails("fallocate") ? -1 : real(fd, mode, offset, length);
}

int memfd_create(const char* name, unsigned flags) noexcept {
  static const auto real = next<int (*)(const char*, unsigned)>("memfd_create");
  return fails("memfd_create") ? -1 : real(name, flags);
}

ssize_t pread(int fd, void* data, size_t size, off_t offset) {
  static const auto real = next<ssize_t (*)(int, void*, size_t, off_t)>("pread");
  return fails("pread") ? -1 : real(fd, data, size, offset);
}

int open(const char* file, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const auto mode = va_arg(arguments, mode_t);
  va_end(arguments);
  static const auto real = next<int (*)(const char*, int, ...)>("open");
  return fails("open") ? -1 : real(file, flags, mode);
}

int close(int fd) {
  static const auto real = next<int (*)(int)>("close");
  const bool failing = fails("close");
  const int error = errno;
  const int result = real(fd);  // as the kernel does: closed in any case
  if (!failing) return result;
  errno = error;
  return -1;
}

}  // extern "C"

namespace credence {
namespace {

using namespace credence::testing;
using ::testing::AllOf;
using ::testing::HasSubstr;

/// Runs `work` with the given call failing; returns whether that call was reached.
template <class Work>
bool with_fault(int call, int error, Work&& work) {
  faults.calls = 0;
  faults.fail_at = call;
  faults.error = error;
  faults.failed = "none";
  faults.armed = true;
  work();
  faults.armed = false;
  return faults.calls >= call;
}

std::size_t entries(const std::filesystem::path& directory) {
  return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(directory), {}));
}

class FullDisk : public ::testing::TestWithParam<int> {};

TEST_P(FullDisk, EveryCallMayFail) {
  const ScratchDirectory directory;
  const auto older = directory / checkpoint_name(1);
  const auto replaced = directory / checkpoint_name(2);
  write_checkpoint(older, make_sample(1).contents);
  write_checkpoint(replaced, make_sample(2).contents);
  const auto older_bytes = bytes_of_file(older);
  const auto replaced_bytes = bytes_of_file(replaced);
  const Sample sample = make_sample(3);
  std::set<std::string> failed;
  int call = 1;
  for (bool reached = true; reached; ++call) {
    // Once with a new name and once with one that exists.
    for (const auto& file : {directory / checkpoint_name(3), replaced}) {
      std::string message;
      bool written = false;
      reached = with_fault(call, GetParam(), [&] {
        try {
          write_checkpoint(file, sample.contents);
          written = true;
        } catch (const StorageError& error) {
          message = error.what();
        }
      });
      SCOPED_TRACE(fmt::format("call {} ({}) of {}: {}", call, faults.failed, file.string(), message));
      if (written) {  // not reached, or a call whose failure does not matter
        ASSERT_NO_THROW(expect_equal(Checkpoint(file), sample.contents));
        // Only closing what was read, or a directory after its fsync, may fail without harm.
        if (reached) {
          ASSERT_STREQ(faults.failed, "close");
        }
        std::filesystem::remove(directory / checkpoint_name(3));
        write_bytes(replaced, replaced_bytes);
      } else {
        ASSERT_THAT(message, AllOf(HasSubstr(directory.path().string()), HasSubstr("failed")));
        failed.insert(faults.failed);
      }
      ASSERT_EQ(bytes_of_file(older), older_bytes);
      ASSERT_EQ(bytes_of_file(replaced), replaced_bytes);
      ASSERT_EQ(entries(directory.path()), 2U) << "something is left behind";
    }
  }
  EXPECT_THAT(failed, ::testing::IsSupersetOf(
                          {"open", "close", "memfd_create", "fallocate", "pwrite", "fsync", "pread", "rename"}));
  EXPECT_GT(call, 20);
}

INSTANTIATE_TEST_SUITE_P(Errors, FullDisk, ::testing::Values(ENOSPC, EIO, EDQUOT, EROFS, EFBIG));

TEST(Storage, ShortWritesAreContinued) {
  const ScratchDirectory directory;
  const Sample sample = make_sample(3);
  faults.kind = Fault::halve;
  int call = 1;
  for (bool reached = true; reached; ++call) {
    reached = with_fault(call, 0, [&] {
      try {
        write_checkpoint(directory / "a.h5", sample.contents);
      } catch (const StorageError&) {
        EXPECT_STRNE(faults.failed, "pwrite");
      }
    });
    if (std::string(faults.failed) == "pwrite") {
      expect_equal(Checkpoint(directory / "a.h5"), sample.contents);
    }
  }
  faults.kind = Fault::fail;
}

TEST(Storage, WhatTheDiskChangedIsNotPublished) {
  const ScratchDirectory directory;
  const auto file = directory / checkpoint_name(1);
  write_checkpoint(file, make_sample(1).contents);
  const auto before = bytes_of_file(file);
  const Sample sample = make_sample(2);
  faults.kind = Fault::lie;
  int lies = 0;
  int call = 1;
  for (bool reached = true; reached; ++call) {
    std::string message;
    reached = with_fault(call, EIO, [&] {
      try {
        write_checkpoint(file, sample.contents);
      } catch (const StorageError& error) {
        message = error.what();
      }
    });
    if (std::string(faults.failed) == "pwrite") {
      ++lies;
      EXPECT_THAT(message, HasSubstr("does not read back"));
    }
    if (message.empty()) {
      write_bytes(file, before);
    } else {
      ASSERT_EQ(bytes_of_file(file), before);
    }
    ASSERT_EQ(entries(directory.path()), 1U);
  }
  faults.kind = Fault::fail;
  EXPECT_GE(lies, 10);
}

TEST(Storage, TheTextFileToo) {
  const ScratchDirectory directory;
  write_text_file(directory / "status.json", "old");
  int call = 1;
  for (bool reached = true; reached; ++call) {
    bool written = false;
    reached = with_fault(call, ENOSPC, [&] {
      try {
        write_text_file(directory / "status.json", "new");
        written = true;
      } catch (const StorageError& error) {
        EXPECT_THAT(error.what(), HasSubstr("No space left"));
      }
    });
    const auto bytes = bytes_of_file(directory / "status.json");
    EXPECT_EQ(std::string(bytes.begin(), bytes.end()), written ? "new" : "old") << faults.failed;
    EXPECT_EQ(entries(directory.path()), 1U) << faults.failed;
    if (written) write_text_file(directory / "status.json", "old");
  }
  EXPECT_GT(call, 5);
}

TEST(Storage, ThePublisherGoesOnAfterAFailure) {
  const ScratchDirectory directory;
  BackgroundWriter writer(directory.path(), 2);
  writer.submit(1, make_sample(1).contents);
  writer.drain();
  for (int failures = 1; failures <= 3; ++failures) {
    with_fault(5, ENOSPC, [&] {
      writer.submit(2, make_sample(2).contents);
      writer.drain();
    });
    EXPECT_EQ(writer.consecutive_failures(), failures) << faults.failed;
    EXPECT_THAT(writer.take_failure().value_or(""), HasSubstr("No space left on device"));
  }
  writer.submit(3, make_sample(3).contents);
  writer.drain();
  EXPECT_EQ(writer.consecutive_failures(), 0);
  EXPECT_EQ(find_newest_checkpoint(directory.path()).newest->integer("step"), 3);
}

TEST(Storage, ALimitOnFileSizeIsReported) {
  const ScratchDirectory directory;
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{8192, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  Sample sample = make_sample();
  sample.add<float>("posterior/large/mean", {10'000}, std::vector<float>(10'000, 1.f));
  const auto message = message_of<StorageError>([&] { write_checkpoint(directory / "a.h5", sample.contents); });
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_THAT(message, HasSubstr("File too large"));
  EXPECT_EQ(entries(directory.path()), 0U);
}

TEST(Storage, AnUnwritableDirectoryIsReported) {
  EXPECT_THAT(message_of<StorageError>([] { write_checkpoint("/proc/a.h5", make_sample().contents); }),
              AllOf(HasSubstr("/proc/a.h5"), HasSubstr("open failed")));
}

/// A file system of 1 MB that only this process's child sees, filled more with every save.
TEST(Storage, ARealFullDiskKeepsTheOldCheckpoint) {
  const ScratchDirectory directory;
  const pid_t child = fork();
  if (child == 0) {
    if (unshare(CLONE_NEWNS) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) _exit(77);
    if (mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) _exit(77);
    if (mount("tmpfs", directory.path().c_str(), "tmpfs", 0, "size=1m") != 0) _exit(77);
    Sample sample = make_sample(1);
    sample.add<float>("posterior/large/mean", {100'000}, std::vector<float>(100'000, 1.f));
    try {
      write_checkpoint(directory / checkpoint_name(1), sample.contents);
      write_checkpoint(directory / checkpoint_name(2), sample.contents);
    } catch (const std::exception&) {
      _exit(1);
    }
    try {
      write_checkpoint(directory / checkpoint_name(3), sample.contents);
      _exit(2);
    } catch (const StorageError& error) {
      if (std::string(error.what()).find("No space left on device") == std::string::npos) _exit(3);
    }
    if (entries(directory.path()) != 2) _exit(4);
    for (int step = 1; step <= 2; ++step) {
      if (!verify_checkpoint(directory / checkpoint_name(step)).empty()) _exit(5);
    }
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 77) GTEST_SKIP() << "this machine lets no test mount a file system";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace credence
