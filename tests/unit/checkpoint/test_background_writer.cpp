#include <fmt/format.h>
#include <gmock/gmock.h>
#include <sys/wait.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <random>
#include <thread>

#include "credence/base/errors.h"
#include "credence/base/hdf5.h"
#include "credence/base/stopwatch.h"
#include "credence/checkpoint/background_writer.h"
#include "credence/checkpoint/run_directory.h"
#include "unit/checkpoint/sample.h"

namespace credence {
namespace {

using namespace credence::testing;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::string> names_in(const std::filesystem::path& directory) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

void damage(const std::filesystem::path& file) {
  auto bytes = bytes_of_file(file);
  bytes[bytes.size() / 2] ^= 4;
  write_bytes(file, bytes);
}

/// As make_sample(), with `megabytes` more of weights.
Sample make_large_sample(std::int64_t step, std::size_t megabytes) {
  Sample sample = make_sample(step);
  sample.add<float>("posterior/large/mean", {static_cast<std::int64_t>(megabytes), 262144},
                    std::vector<float>(megabytes * 262144, static_cast<float>(step)));
  return sample;
}

TEST(BackgroundWriter, WritesWhatWasSubmittedAndKeepsTheNewest) {
  const ScratchDirectory directory;
  {
    BackgroundWriter writer(directory.path(), 3);
    EXPECT_EQ(writer.published_step(), -1);
    for (std::int64_t step = 1; step <= 6; ++step) {
      Sample sample = make_sample(step);
      writer.submit(step, sample.contents);
      // The caller goes on training: what was submitted must not change with its memory.
      for (auto& bytes : sample.memory) std::fill(bytes.begin(), bytes.end(), std::byte{0xee});
    }
    writer.drain();
    EXPECT_EQ(writer.published_step(), 6);
    EXPECT_EQ(writer.consecutive_failures(), 0);
    EXPECT_EQ(writer.take_failure(), std::nullopt);
  }
  EXPECT_THAT(names_in(directory.path()), ElementsAre(checkpoint_name(4), checkpoint_name(5), checkpoint_name(6)));
  for (std::int64_t step = 4; step <= 6; ++step) {
    expect_equal(Checkpoint(directory / checkpoint_name(step)), make_sample(step).contents);
  }
}

TEST(BackgroundWriter, NeverKeepsFewerThanTwo) {
  const ScratchDirectory directory;
  {
    BackgroundWriter writer(directory.path(), 0);
    for (std::int64_t step = 1; step <= 4; ++step) writer.submit(step, make_sample(step).contents);
  }  // the destructor waits for what is in flight and what waits
  EXPECT_THAT(names_in(directory.path()), ElementsAre(checkpoint_name(3), checkpoint_name(4)));
}

TEST(BackgroundWriter, CountsOnlyGoodFilesAsKeptAndLeavesLaterStepsAlone) {
  const ScratchDirectory directory;
  for (const std::int64_t step : {10, 20, 30, 90}) {
    write_checkpoint(directory / checkpoint_name(step), make_sample(step).contents);
  }
  damage(directory / checkpoint_name(30));
  damage(directory / checkpoint_name(90));  // a later one, which the run resumed without
  BackgroundWriter writer(directory.path(), 2);
  writer.submit(40, make_sample(40).contents);
  writer.drain();
  // 40 and 20 are the two good ones; 30 lies between them; 10 is no longer needed.
  EXPECT_THAT(names_in(directory.path()),
              ElementsAre(checkpoint_name(20), checkpoint_name(30), checkpoint_name(40), checkpoint_name(90)));
  writer.submit(50, make_sample(50).contents);
  writer.drain();
  EXPECT_THAT(names_in(directory.path()), ElementsAre(checkpoint_name(40), checkpoint_name(50), checkpoint_name(90)));
}

TEST(BackgroundWriter, ReportsAndCountsFailuresAndDeletesNothingThen) {
  const ScratchDirectory directory;
  const auto run = directory / "run";
  std::filesystem::create_directory(run);
  BackgroundWriter writer(run, 2);
  for (std::int64_t step = 1; step <= 2; ++step) writer.submit(step, make_sample(step).contents);
  writer.drain();
  std::filesystem::rename(run, directory / "gone");
  for (std::int64_t step = 3; step <= 5; ++step) {
    writer.submit(step, make_sample(step).contents);
    writer.drain();
    EXPECT_EQ(writer.consecutive_failures(), step - 2);
  }
  const auto failure = writer.take_failure();
  ASSERT_TRUE(failure.has_value());
  EXPECT_THAT(*failure, ::testing::AllOf(HasSubstr(checkpoint_name(5)), HasSubstr("No such file or directory")));
  EXPECT_EQ(writer.take_failure(), std::nullopt) << "reported once";
  EXPECT_EQ(writer.published_step(), 2);
  std::filesystem::rename(directory / "gone", run);
  EXPECT_THAT(names_in(run), ElementsAre(checkpoint_name(1), checkpoint_name(2)));
  writer.submit(6, make_sample(6).contents);
  writer.drain();
  EXPECT_EQ(writer.consecutive_failures(), 0);
  EXPECT_EQ(writer.published_step(), 6);
}

TEST(BackgroundWriter, LeavesADirectoryThatIsAnothersAlone) {
  const ScratchDirectory directory;
  std::atomic<int> looks_left = 1000;
  BackgroundWriter writer(directory.path(), 2, [&] { return --looks_left < 0; });
  for (const std::int64_t step : {1, 2}) writer.submit(step, make_sample(step).contents);
  writer.drain();
  const auto before = names_in(directory.path());
  EXPECT_THAT(before, ElementsAre(checkpoint_name(1), checkpoint_name(2)));
  for (const int looks : {0, 1}) {  // lost before the save, and while it is written
    looks_left = looks;
    writer.submit(3, make_sample(3).contents);
    writer.drain();
    EXPECT_THAT(writer.take_failure().value_or(""), HasSubstr("another job's"));
    EXPECT_EQ(names_in(directory.path()), before);
  }
  looks_left = 2;  // lost once it is published: what is there stays
  writer.submit(4, make_sample(4).contents);
  writer.drain();
  EXPECT_THAT(names_in(directory.path()), ElementsAre(checkpoint_name(1), checkpoint_name(2), checkpoint_name(4)));
}

TEST(BackgroundWriter, ReportsContentsThatBreakTheFormat) {
  const ScratchDirectory directory;
  BackgroundWriter writer(directory.path(), 2);
  Sample sample = make_sample();
  sample.contents.attributes.erase("seed");
  writer.submit(1, sample.contents);
  writer.drain();
  EXPECT_THAT(writer.take_failure().value_or(""), HasSubstr("seed"));
}

TEST(BackgroundWriter, SubmitsWithoutWaitingForTheDisk) {
  const ScratchDirectory directory;
  BackgroundWriter writer(directory.path(), 2);
  const Sample sample = make_large_sample(1, 64);
  writer.submit(1, sample.contents);
  writer.drain();
  const double before = writer.blocked_seconds();
  const Stopwatch watch;
  double submitted = 0.0;
  {
    const hdf5::Lock held;  // nothing can be written while it is
    writer.submit(2, sample.contents);
    submitted = watch.seconds();
    EXPECT_EQ(writer.published_step(), 1);
  }
  writer.drain();
  const double all = watch.seconds();
  EXPECT_EQ(writer.published_step(), 2);
  EXPECT_LT(submitted, all);
  const double blocked = writer.blocked_seconds() - before;
  EXPECT_GE(blocked, submitted / 2);
  EXPECT_LE(blocked, all);
}

TEST(BackgroundWriter, SurvivesBeingKilledAtAnyMoment) {
  constexpr int kTrials = 30;
  const ScratchDirectory directory;
  std::mt19937 random(7);
  std::int64_t newest = 0;
  for (int trial = 0; trial < kTrials; ++trial) {
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    const pid_t child = fork();
    if (child == 0) {
      close(ends[0]);
      try {
        const RunDirectoryLock lock(directory.path());
        BackgroundWriter writer(directory.path(), 2);
        for (std::int64_t step = newest + 1;; ++step) {
          writer.submit(step, make_large_sample(step, 2).contents);
          writer.drain();
          const std::int64_t done = writer.published_step();
          if (write(ends[1], &done, sizeof(done)) != sizeof(done)) _exit(2);
        }
      } catch (...) {
        _exit(1);
      }
    }
    close(ends[1]);
    std::int64_t published = newest;
    // At least one is published; the kill then falls anywhere into the next ones.
    ASSERT_EQ(read(ends[0], &published, sizeof(published)), static_cast<ssize_t>(sizeof(published)));
    std::this_thread::sleep_for(std::chrono::microseconds(std::uniform_int_distribution<int>(0, 60'000)(random)));
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the writer ended by itself with " << WEXITSTATUS(status);
    while (read(ends[0], &published, sizeof(published)) == static_cast<ssize_t>(sizeof(published))) {
    }
    close(ends[0]);

    const auto search = find_newest_checkpoint(directory.path());
    ASSERT_NE(search.newest, nullptr) << "trial " << trial;
    EXPECT_TRUE(search.unusable.empty()) << "trial " << trial << ": " << search.unusable[0].second;
    const std::int64_t step = search.newest->integer("step");
    EXPECT_GE(step, published) << "a checkpoint that was reported as published is lost";
    expect_equal(*search.newest, make_large_sample(step, 2).contents);
    newest = step;
  }
  const RunDirectoryLock lock(directory.path());
  for (const std::string& name : names_in(directory.path())) {
    EXPECT_TRUE(name == "lock" || name.ends_with(".h5")) << name << " is left from a killed writer";
  }
}

}  // namespace
}  // namespace credence
