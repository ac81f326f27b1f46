#include <gmock/gmock.h>

#include <algorithm>
#include <fstream>
#include <thread>
#include <utility>

#include "credence/base/errors.h"
#include "unit/data/packs.h"

namespace credence {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

void overwrite(const fs::path& file, std::streamoff at, const std::string& bytes) {
  std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
  stream.seekp(at);
  stream << bytes;
}

/// Folders of images, their parts, and a clock that goes only when it is told to.
class PackParts : public test::PackTest {
 protected:
  std::size_t synced() const { return read_parts(parts(), options).entries.size(); }
  PackMachine machine() {
    PackMachine machine;
    machine.seconds = [this] { return now; };
    return machine;
  }
  std::unique_ptr<PartWriter> writer(const PackMachine& machine) const {
    fs::create_directories(parts());
    return std::make_unique<PartWriter>(parts(), 0, options, machine);
  }
  std::vector<std::int64_t> records_found() const {
    std::vector<std::int64_t> records;
    for (const PlacedEntry& placed : entries()) records.push_back(placed.record);
    return records;
  }

  double now = 100.0;
};

TEST_F(PackParts, AJournalCutShortOrDamagedCountsUpToThere) {
  append({0, 1, 2, 3}, 0);
  const fs::path journal = parts() / "part-0000.journal";
  fs::resize_file(journal, 64 + 3 * 80 - 1);
  EXPECT_EQ(synced(), 2U);
  overwrite(journal, 64 + 80 + 9, "\x7f");
  EXPECT_EQ(synced(), 1U);
  EXPECT_EQ(read_parts(parts(), options).next_part, 1);
  fs::resize_file(journal, 10);
  EXPECT_EQ(synced(), 0U);
  append({0}, 1);
  EXPECT_THAT([&] { read_parts(parts(), Digest{9}); }, ThrowsMessage<UserError>(HasSubstr("another --encoding")));
}

TEST_F(PackParts, AJournalWithoutAWholeHeadingIsEmptyAndItsNumberIsNotUsedAgain) {
  const fs::path journal = parts() / "part-0003.journal";
  for (const auto& [at, bytes] : {std::pair{0, std::string(64, '\0')}, std::pair{32, std::string(32, '\0')},
                                  std::pair{16, std::string(16, '\0')}, std::pair{0, std::string("x")}}) {
    fs::remove_all(parts());
    append({0, 1}, 3);
    overwrite(journal, at, bytes);
    EXPECT_EQ(synced(), 0U) << at;
    EXPECT_EQ(read_parts(parts(), options).next_part, 4) << at;
  }
  // A part whose journal's name did not reach the disk.
  std::ofstream(parts() / "part-0008.bytes") << "x";
  EXPECT_EQ(read_parts(parts(), options).next_part, 9);
  append({0, 1, 2}, 9);
  EXPECT_EQ(synced(), 3U);
}

TEST_F(PackParts, WhatIsOlderThanASecondIsOnTheDisk) {
  const auto part = writer(machine());
  std::size_t older = 0;
  std::vector<double> times;
  for (std::int64_t record = 0; record < 12; ++record) {
    add(record, *part);
    times.push_back(now);
    older = static_cast<std::size_t>(std::ranges::count_if(times, [&](double time) { return time < now - 1.0; }));
    EXPECT_GE(synced(), older);
    now += 0.15;
  }
  EXPECT_GT(older, 4U) << "the clock must go on for the test to mean anything";
}

TEST_F(PackParts, AThreadThatLooksAfterItSyncsAfterHalfASecond) {
  const auto part = writer(machine());
  add(0, *part);
  now += 0.4;
  part->sync_if_due();
  EXPECT_EQ(synced(), 0U);
  add(1, *part);
  now += 0.11;
  part->sync_if_due();
  EXPECT_EQ(synced(), 2U);
  add(2, *part);
  now += 0.4;
  part->sync_if_due();
  EXPECT_EQ(synced(), 2U) << "the time counts from the first record that is not on the disk";
}

TEST_F(PackParts, RecordsAreAppendedWhileOthersAreSynced) {
  PackMachine slow = machine();
  PartWriter* part = nullptr;
  bool appended = false;
  slow.sync = [&, plain = PackMachine().sync](int fd, const fs::path& file) {
    plain(fd, file);
    if (part == nullptr || std::exchange(appended, true)) return;
    // Another thread's record: where a sync kept it from being appended, this would never end.
    std::thread([&] { add(1, *part); }).join();
  };
  const auto owner = writer(slow);
  part = owner.get();
  add(0, *part);
  part->sync();
  EXPECT_THAT(records_found(), ElementsAre(0)) << "of what was appended meanwhile the bytes may not be on the disk";
  part->sync();
  EXPECT_THAT(records_found(), ElementsAre(0, 1));
  assemble();
}

TEST_F(PackParts, AfterASyncThatFailedNothingIsNoted) {
  PackMachine broken = machine();
  bool fails = false;
  broken.sync = [&](int, const fs::path& file) {
    if (std::exchange(fails, false)) throw StorageError(file.string() + ": no more room");
  };
  const auto part = writer(broken);
  add(0, *part);
  part->sync();
  add(1, *part);
  fails = true;
  EXPECT_THROW(part->sync(), StorageError);
  add(2, *part);
  EXPECT_THAT([&] { part->sync(); }, ThrowsMessage<StorageError>(HasSubstr("an earlier sync failed")));
  EXPECT_THAT(records_found(), ElementsAre(0));
}

TEST_F(PackParts, RecordsAreKnownByPathAndLength) {
  append({0, 2, 3, 7}, 0);
  EXPECT_THAT(records_found(), ElementsAre(0, 2, 3, 7));
  fs::remove(directory.path() / "images/train/a/1.jpg");
  directory.write("images/train/b/0.jpg", test::text(test::jpeg(30, 50, 70)));
  open();
  // Record 2 is record 1 now, record 3 is another, and the test split begins one earlier.
  EXPECT_THAT(records_found(), ElementsAre(0, 1, 6));
  directory.write("images/train/a/00.jpg", test::text(test::jpeg(30, 50, 70)));
  open();
  EXPECT_THAT(records_found(), ElementsAre(0, 2, 7)) << "sorted in front of the others but the first";
}

TEST_F(PackParts, AGoodEntryIsWorthMoreThanABadOne) {
  fs::create_directories(parts());
  for (const int part : {0, 2}) {
    PartWriter bad(parts(), part, options);
    bad.append_bad(keys()[1]);
    bad.append_bad(keys()[2]);
    bad.sync();
  }
  append({1}, 1);
  const std::vector<PlacedEntry> found = entries();
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].part, 1);
  EXPECT_FALSE(found[0].entry.bad);
  EXPECT_TRUE(found[1].entry.bad);
}

}  // namespace
}  // namespace credence
