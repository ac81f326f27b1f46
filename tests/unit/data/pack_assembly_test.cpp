#include <gmock/gmock.h>

#include <fstream>
#include <stdexcept>

#include "credence/base/errors.h"
#include "credence/data/pack_store.h"
#include "unit/data/packs.h"

namespace credence {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::ThrowsMessage;

const std::vector<std::int64_t> kAll = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};

struct Killed : std::runtime_error {
  Killed() : std::runtime_error("killed") {}
};

class Assembly : public test::PackTest {
 protected:
  /// Stops, or is killed without a chance to sync, before the record of this number.
  void copy_until(std::int64_t end, bool killed, const PackMachine& machine = {}) const {
    PackAssembly part = assembly(machine);
    std::atomic<std::int64_t> progress = 0;
    const std::int64_t before = part.copied();
    part.copy(progress, [&] {
      if (before + progress < end) return false;
      if (killed) throw Killed();
      return true;
    });
  }
};

TEST_F(Assembly, DamagedPartsAreNotAssembled) {
  append({0, 1, 2}, 0);
  std::fstream stream(parts() / "part-0000.bytes", std::ios::in | std::ios::out | std::ios::binary);
  stream.seekp(700);
  stream.put('\x55');
  stream.close();
  EXPECT_THAT([&] { assemble(); }, ThrowsMessage<DataError>(HasSubstr("the bytes of record")));
  EXPECT_FALSE(fs::exists(file()));
}

TEST_F(Assembly, GoesOnWhereItWasStopped) {
  append(kAll, 0);
  assemble();
  const std::string whole = bytes();
  copy_until(5, false);
  EXPECT_EQ(assembly().copied(), 5);
  copy_until(9, false);
  EXPECT_EQ(assembly().copied(), 9);
  // What is done is not read again.
  std::ofstream(parts() / "part-0000.bytes", std::ios::in | std::ios::out | std::ios::binary) << std::string(100, 'x');
  assemble();
  EXPECT_EQ(bytes().substr(0, 512), whole.substr(0, 512)) << "places, digests and the job";
  const PackStore store(file(), Split::train);
  std::vector<std::uint8_t> buffer;
  for (std::int64_t i = 0; i < store.size(); ++i) EXPECT_NO_THROW(store.read(i, buffer)) << i;
}

TEST_F(Assembly, AKillLosesASecondOfIt) {
  append(kAll, 0);
  double now = 0.0;
  PackMachine machine;
  machine.seconds = [&] { return now += 0.1; };  // once a record
  for (const std::int64_t end : {4, 8, 11}) {
    const std::int64_t before = assembly().copied();
    const double begin = now;
    EXPECT_THROW(copy_until(end, true, machine), Killed);
    const double seconds_of_record = (now - begin) / static_cast<double>(end - before);
    EXPECT_LE(static_cast<double>(end - assembly().copied()) * seconds_of_record, 1.0) << end;
  }
  EXPECT_GT(assembly().copied(), 0) << "a second is less than all of it";
  assemble();
}

TEST_F(Assembly, BeginsAnewWhereRecordsOrTheJobAreOthers) {
  append({0, 1, 2, 3, 4, 5}, 0);
  copy_until(4, false);
  ASSERT_EQ(assembly().copied(), 4);
  job = Digest{7};
  EXPECT_EQ(assembly().copied(), 0);
  copy_until(4, false);
  append({6}, 1);
  EXPECT_EQ(assembly().copied(), 0);
  copy_until(4, false);
  ASSERT_EQ(assembly().copied(), 4);
  fs::resize_file(parts() / "assembled.h5", 700);
  EXPECT_EQ(assembly().copied(), 0);
  assemble();
}

TEST_F(Assembly, AFinishedPackIsKnownByItsJob) {
  append({0, 1, 6}, 0);
  EXPECT_EQ(finished_records(file(), job), 0) << "no such file";
  assemble();
  EXPECT_EQ(finished_records(file(), job), 3);
  EXPECT_EQ(finished_records(file(), Digest{7}), 0);
  const std::string good = bytes();
  for (const std::string& content : {good.substr(0, good.size() - 1), good.substr(0, 100), std::string(), good + "x"}) {
    directory.write("packed.h5", content);
    EXPECT_EQ(finished_records(file(), job), 0);
  }
}

}  // namespace
}  // namespace credence
