// Damage of every kind: found before use, never a crash, the file and where possible the array named.

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <algorithm>

#include "credence/base/errors.h"
#include "credence/checkpoint/user_block.h"
#include "unit/checkpoint/sample.h"

namespace credence {
namespace {

using namespace credence::testing;
using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr std::size_t kStride = CREDENCE_DAMAGE_STRIDE;  // odd, so that each bit of a byte gets its turn

class Damage : public ::testing::Test {
 protected:
  Damage() : file_(directory_ / checkpoint_name(7)) {
    write_checkpoint(file_, make_sample(7).contents);
    good_ = bytes_of_file(file_);
  }
  /// The message with which a file of these bytes is refused.
  std::string refusal(const std::vector<char>& bytes) {
    write_bytes(file_, bytes);
    return message_of<DataError>([&] { Checkpoint{file_}; });
  }
  void put_byte(std::size_t position, char value) const {
    std::fstream file(file_, std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(static_cast<std::streamoff>(position)).put(value);
  }
  std::size_t position_of(float value) const {
    const auto* bytes = reinterpret_cast<const char*>(&value);
    const auto found = std::search(good_.begin(), good_.end(), bytes, bytes + sizeof(value));
    EXPECT_NE(found, good_.end());
    return static_cast<std::size_t>(found - good_.begin());
  }

  ScratchDirectory directory_;
  std::filesystem::path file_;
  std::vector<char> good_;
};

TEST_F(Damage, OneFlippedBitAnywhereIsFound) {
  Sample sample = make_sample(7);
  sample.contents.arrays.resize(3);  // each position costs a process
  sample.contents.array_attributes.clear();
  write_checkpoint(file_, sample.contents);
  good_ = bytes_of_file(file_);
  std::size_t named = 0;
  for (std::size_t position = 0; position < good_.size(); position += kStride) {
    const char flipped = static_cast<char>(good_[position] ^ (1 << (position % 8)));
    put_byte(position, flipped);
    const std::string message = message_of<DataError>([&] { Checkpoint{file_}; });
    ASSERT_THAT(message, AllOf(HasSubstr(file_.string()), HasSubstr("damaged"))) << "byte " << position;
    named += message.find("posterior/") != std::string::npos ? 1 : 0;
    put_byte(position, good_[position]);
  }
  EXPECT_GE(named, 18U * sizeof(float) / kStride) << "each byte looked at of the three arrays";
  EXPECT_NO_THROW(Checkpoint{file_}) << "the file is whole again";
}

TEST_F(Damage, EveryTruncationIsFound) {
  for (std::size_t cut = 1; cut <= good_.size(); cut += kStride) {
    const std::size_t length = good_.size() - cut;
    std::filesystem::resize_file(file_, length);
    ASSERT_THAT(message_of<DataError>([&] { Checkpoint{file_}; }), HasSubstr(file_.string())) << length;
  }
}

TEST_F(Damage, AppendedBytesAreFound) {
  for (const std::size_t more : {1U, 511U, 4096U}) {
    std::vector<char> bytes = good_;
    bytes.resize(bytes.size() + more);
    EXPECT_THAT(refusal(bytes),
                HasSubstr(fmt::format("{} bytes long where {} were written", bytes.size(), good_.size())));
  }
}

TEST_F(Damage, ZeroedSwappedAndDuplicatedPagesAreFound) {
  constexpr std::size_t kPage = 4096;
  Sample sample = make_sample(7);
  std::vector<float> values(5000);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = 1.f + static_cast<float>(i);
  sample.add<float>("posterior/large/mean", {5000}, values);
  write_checkpoint(file_, sample.contents);
  good_ = bytes_of_file(file_);
  const std::size_t pages = good_.size() / kPage;
  ASSERT_GE(pages, 5U);
  for (std::size_t i = 0; i < pages; ++i) {
    std::vector<char> zeroed = good_;
    std::fill_n(zeroed.begin() + static_cast<std::ptrdiff_t>(i * kPage), kPage, '\0');
    ASSERT_NE(zeroed, good_);
    refusal(zeroed);
    for (std::size_t j = 0; j < i; ++j) {
      std::vector<char> swapped = good_;
      std::swap_ranges(swapped.begin() + static_cast<std::ptrdiff_t>(i * kPage),
                       swapped.begin() + static_cast<std::ptrdiff_t>((i + 1) * kPage),
                       swapped.begin() + static_cast<std::ptrdiff_t>(j * kPage));
      refusal(swapped);
      std::vector<char> duplicated = good_;
      std::copy_n(good_.begin() + static_cast<std::ptrdiff_t>(i * kPage), kPage,
                  duplicated.begin() + static_cast<std::ptrdiff_t>(j * kPage));
      refusal(duplicated);
    }
  }
}

TEST_F(Damage, NamesTheDamagedArraysAndOnlyThose) {
  std::vector<char> bytes = good_;
  bytes[position_of(-7.f)] ^= 1;  // first element of raw_scale
  EXPECT_THAT(refusal(bytes), AllOf(HasSubstr("(in posterior/fc1.weight/raw_scale)"), Not(HasSubstr("/mean"))));
  EXPECT_THAT(verify_checkpoint(file_), ::testing::ElementsAre(HasSubstr("content does not match"),
                                                               HasSubstr("'posterior/fc1.weight/raw_scale'")));
  bytes[position_of(7.5f)] ^= 1;  // first element of mean
  EXPECT_THAT(refusal(bytes), HasSubstr("(in posterior/fc1.weight/mean, posterior/fc1.weight/raw_scale)"));
}

TEST_F(Damage, TheTensorsDigestGuardsWhatIsReadLater) {
  const Checkpoint checkpoint(file_);
  std::vector<char> bytes = good_;
  bytes[position_of(7.5f)] ^= 1;
  write_bytes(file_, bytes);  // same file, changed after it was opened
  EXPECT_THAT(message_of<DataError>([&] { checkpoint.read_doubles("posterior/fc1.weight/mean"); }),
              HasSubstr("'posterior/fc1.weight/mean' does not match its digest"));
  EXPECT_EQ(checkpoint.read_doubles("posterior/fc1.weight/raw_scale").size(), 6U);
}

TEST_F(Damage, OtherThingsThanCheckpointsAreNamed) {
  EXPECT_THAT(refusal(std::vector<char>(2000, 'x')), HasSubstr("not a Credence checkpoint"));
  EXPECT_THAT(refusal({}), HasSubstr("0 bytes long"));
  EXPECT_THAT(message_of<DataError>([&] { Checkpoint{directory_ / "absent.h5"}; }), HasSubstr("No such file"));
  EXPECT_THAT(message_of<DataError>([&] { Checkpoint{directory_.path()}; }), HasSubstr("not a regular file"));
  ASSERT_EQ(mkfifo((directory_ / "pipe").c_str(), 0600), 0);
  EXPECT_THAT(message_of<DataError>([&] { Checkpoint{directory_ / "pipe"}; }), HasSubstr("not a regular file"));
  EXPECT_THAT(verify_checkpoint(directory_ / "absent.h5"), ::testing::SizeIs(1));
}

/// Changes a field of the user block and makes its digest right again.
std::vector<char> with_field(std::vector<char> bytes, std::size_t at, std::uint32_t value) {
  std::memcpy(bytes.data() + at, &value, sizeof(value));
  const auto digest = digest_of(std::as_bytes(std::span(bytes).first(496)));
  std::memcpy(bytes.data() + 496, digest.data(), digest.size());
  return bytes;
}

TEST_F(Damage, ANewerFormatIsRefusedByItsNumber) {
  EXPECT_THAT(refusal(with_field(good_, 8, 2)), AllOf(HasSubstr("format 2"), HasSubstr("newer Credence"),
                                                      HasSubstr("up to 1"), Not(HasSubstr("damaged"))));
  EXPECT_THAT(refusal(with_field(good_, 8, 0)), HasSubstr("do not follow"));
  EXPECT_THAT(refusal(with_field(good_, 12, 1024)), HasSubstr("do not follow"));
  EXPECT_THAT(refusal(with_field(good_, 100, 1)), HasSubstr("do not follow"));
}

class Search : public ::testing::Test {
 protected:
  std::filesystem::path save(std::int64_t step) {
    const auto file = directory_ / checkpoint_name(step);
    write_checkpoint(file, make_sample(step).contents);
    return file;
  }
  static void damage(const std::filesystem::path& file) {
    auto bytes = bytes_of_file(file);
    bytes[bytes.size() / 2] ^= 4;
    write_bytes(file, bytes);
  }
  ScratchDirectory directory_;
};

TEST_F(Search, TakesTheNewestByNumber) {
  save(99'999'999);
  save(3);
  const auto newest = save(100'000'000);  // sorts first as text
  const auto search = find_newest_checkpoint(directory_.path());
  ASSERT_NE(search.newest, nullptr);
  EXPECT_EQ(search.newest->file(), newest);
  EXPECT_EQ(search.newest->integer("step"), 100'000'000);
  EXPECT_THAT(search.files, ::testing::ElementsAre(newest, directory_ / checkpoint_name(99'999'999),
                                                   directory_ / checkpoint_name(3)));
  EXPECT_TRUE(search.unusable.empty());
}

TEST_F(Search, FallsBackPastDamagedAndUnfinishedOnes) {
  const auto good = save(10);
  const auto damaged = save(20);
  damage(damaged);
  std::filesystem::copy_file(good, directory_ / (checkpoint_name(30) + ".4711-0.tmp"));
  std::filesystem::copy_file(good, directory_ / "checkpoint-40.h5");  // not our name
  std::filesystem::copy_file(good, directory_ / "checkpoint-00000050.h5~");
  const auto search = find_newest_checkpoint(directory_.path());
  ASSERT_NE(search.newest, nullptr);
  EXPECT_EQ(search.newest->file(), good);
  ASSERT_EQ(search.unusable.size(), 1U);
  EXPECT_EQ(search.unusable[0].first, damaged);
  EXPECT_THAT(search.unusable[0].second, HasSubstr(damaged.string()));
}

TEST_F(Search, ReportsAllWhenAllAreDamaged) {
  damage(save(10));
  damage(save(20));
  std::filesystem::create_directory(directory_ / checkpoint_name(30));
  const auto search = find_newest_checkpoint(directory_.path());
  EXPECT_EQ(search.newest, nullptr);
  EXPECT_EQ(search.files.size(), 3U);
  EXPECT_EQ(search.unusable.size(), 3U);
}

TEST_F(Search, FindsNothingInAnEmptyOrAbsentDirectory) {
  EXPECT_TRUE(find_newest_checkpoint(directory_.path()).files.empty());
  EXPECT_TRUE(find_newest_checkpoint(directory_ / "absent").files.empty());
}

}  // namespace
}  // namespace credence
