// Images that cannot be read: which they are depends on the records alone, and what a machine cannot do just now makes
// no record bad.
#include "credence/data/bad_records.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <malloc.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <exception>
#include <functional>

#include "credence/base/errors.h"
#include "credence/base/file_io.h"
#include "credence/communication/factory.h"
#include "credence/data/image_source.h"
#include "credence/data/open.h"
#include "unit/data/files.h"
#include "unit/data/images.h"

namespace credence {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ElementsAre;
using testing::Field;
using testing::HasSubstr;
using testing::StartsWith;
using testing::ThrowsMessage;

/// A class folder of JPEGs, no two alike.
class BadRecords : public testing::Test {
 protected:
  void SetUp() override {
    fs::create_directories(directory_.path() / "a");
    for (int i = 0; i < kImages; ++i) write(i, test::text(good(i)));
  }
  static test::Bytes good(int i) { return test::jpeg(96, 96 + 8 * i, 90 - i); }
  /// Its last rows are missing, which a crop of others does not see.
  static std::string cut(int i) {
    const std::string file = test::text(good(i));
    return file.substr(0, file.size() * 4 / 5) + "\xff\xd9";
  }
  void write(int i, const std::string& bytes) const { directory_.write("a/" + std::to_string(i) + ".JPEG", bytes); }
  std::unique_ptr<DataSource> open(const std::string& size = "16") const {
    return open_data("images:" + directory_.path().string(), Split::train, {.image_size = size});
  }
  std::unique_ptr<DataSource> open_without_bad(std::int64_t allowed, int threads = 2) const {
    auto source = open();
    leave_out_bad_records(*source, allowed, threads, *communicator_);
    return source;
  }
  static const ImageSource& images(const DataSource& source) { return *source.as_images(); }

  static constexpr int kImages = 8;
  test::TemporaryDirectory directory_;
  std::unique_ptr<Communicator> communicator_ = make_self_communicator();
};

TEST_F(BadRecords, EndTheRunUnlessTheyAreAllowed) {
  write(1, test::text(good(1)).substr(0, 500));
  EXPECT_THAT(
      [&] { test::whole(*open_without_bad(0)); },
      ThrowsMessage<DataError>(AllOf(HasSubstr("a/1.JPEG: the JPEG is truncated"), HasSubstr("--max-bad-records"))));
  write(2, "");
  write(4, "not an image");
  EXPECT_THAT([&] { open_without_bad(2); },
              ThrowsMessage<DataError>(AllOf(HasSubstr("more images are bad than the 2"), HasSubstr("a/1.JPEG: "),
                                             HasSubstr("a/2.JPEG: the file is empty"), HasSubstr("a/4.JPEG: "))));
  EXPECT_THAT([&] { open_without_bad(-1); }, ThrowsMessage<UserError>(HasSubstr("--max-bad-records")));
  auto source = open();
  EXPECT_EQ(leave_out_bad_records(*source, 3, 2, *communicator_), 3);
  EXPECT_EQ(source->size(), kImages - 3);
  fs::create_symlink("nowhere", directory_.path() / "a/8.JPEG");
  EXPECT_THAT([&] { open_without_bad(3); },
              ThrowsMessage<DataError>(AllOf(HasSubstr("more images are bad than the 3"), HasSubstr("a/8.JPEG: "))));
  EXPECT_EQ(open_without_bad(4)->size(), kImages - 3);
  for (int i = 0; i < kImages; ++i) write(i, "");
  EXPECT_THAT([&] { open_without_bad(100); }, ThrowsMessage<DataError>(HasSubstr("none of the images")));
}

TEST_F(BadRecords, AreNotThereAtAllOnceLeftOut) {
  const Batch good = test::whole(*open());
  const std::string digest = open()->digest();
  EXPECT_EQ(open_without_bad(3)->digest(), digest) << "where none is bad, nothing changes";
  for (const int i : {0, 3, 4}) write(i, cut(i));
  const auto source = open_without_bad(3);
  EXPECT_NE(source->digest(), digest);
  const Batch left = test::whole(*source);
  ASSERT_EQ(left.size, kImages - 3);
  constexpr std::ptrdiff_t kImage = 16 * 16 * 3;
  std::ptrdiff_t row = 0;
  for (const std::ptrdiff_t i : {1, 2, 5, 6, 7}) {
    EXPECT_TRUE(std::equal(left.pixels.begin() + row * kImage, left.pixels.begin() + (row + 1) * kImage,
                           good.pixels.begin() + i * kImage))
        << i;
    ++row;
  }
}

TEST_F(BadRecords, AreTheSameForAnyRanksAndThreads) {
  for (const int i : {2, 3, 6}) write(i, cut(i));
  const auto source = open();
  const auto found = [&](std::int64_t begin, std::int64_t end, int threads) {
    std::vector<std::int64_t> records;
    for (const auto& bad : images(*source).find_bad(begin, end, kImages, threads)) records.push_back(bad.record);
    return records;
  };
  for (const int threads : {1, 3}) {
    EXPECT_THAT(found(0, kImages, threads), ElementsAre(2, 3, 6));
    EXPECT_THAT(found(0, 3, threads), ElementsAre(2));
    EXPECT_THAT(found(3, kImages, threads), ElementsAre(3, 6));
  }
}

TEST_F(BadRecords, DoNotDependOnTheCropsThatAreDrawn) {
  for (const int i : {2, 5}) write(i, cut(i));
  const Augmentation augmentation = Augmentation::parse("resized-crop:0.01");
  const SamplingPlan plan(3, kImages - 2, 4, 1);
  const auto step = [&](const DataSource& source, std::int64_t number) {
    Batch batch;
    const auto selection = plan.select(number, 0);
    images(source).prepare(4, batch);
    images(source).read_rows(selection, {augmentation, 7}, 0, 4, batch);
    return batch;
  };
  const auto straight = open_without_bad(2);
  for (std::int64_t number = 0; number < 20; ++number) {
    const Batch batch = step(*straight, number);
    const Batch resumed = step(*open_without_bad(2), number);
    ASSERT_EQ(batch.pixels, resumed.pixels) << "step " << number;
    ASSERT_EQ(batch.labels, resumed.labels);
  }
  // What the test is about: of a cut image some crops can be read and some cannot.
  const auto unchecked = open();
  int failed = 0;
  for (std::int64_t epoch = 0; epoch < 40; ++epoch) {
    Batch batch;
    images(*unchecked).prepare(1, batch);
    SamplingPlan::Selection selection = plan.select(0, 0);
    selection.examples.assign(1, 2);
    selection.epochs.assign(1, epoch);
    try {
      images(*unchecked).read_rows(selection, {augmentation, 7}, 0, 1, batch);
    } catch (const DataError&) {
      ++failed;
    }
  }
  EXPECT_GT(failed, 0);
  EXPECT_LT(failed, 40);
}

TEST_F(BadRecords, OneThatTurnsBadLaterEndsTheRun) {
  const auto source = open_without_bad(kImages);
  write(3, "");
  EXPECT_THAT([&] { test::whole(*source); }, ThrowsMessage<DataError>(HasSubstr("a/3.JPEG")));
}

TEST_F(BadRecords, OneWhoseFileIsGoneIsNamedOnce) {
  const auto source = open();
  const std::string file = (directory_.path() / "a/3.JPEG").string();
  fs::remove(file);
  const auto begins = StartsWith(file + ": open failed: No such file or directory; ");
  EXPECT_THAT([&] { test::whole(*source); }, ThrowsMessage<DataError>(begins));
  EXPECT_THAT(images(*source).find_bad(0, kImages, 1, 1),
              ElementsAre(Field(&ImageSource::BadRecord::why, "open failed: No such file or directory")));
}

TEST_F(BadRecords, AFolderInTheFilesPlaceIsOne) {
  const auto source = open();
  fs::remove(directory_.path() / "a/3.JPEG");
  fs::create_directories(directory_.path() / "a/3.JPEG");
  fs::remove(directory_.path() / "a/5.JPEG");
  EXPECT_EQ(leave_out_bad_records(*source, 2, 1, *communicator_), 2);
}

/// While it lives the process can open no more files.
class NoDescriptorLeft {
 public:
  NoDescriptorLeft() {
    getrlimit(RLIMIT_NOFILE, &before_);
    const Descriptor next(::open("/dev/null", O_RDONLY));
    rlimit none = before_;
    none.rlim_cur = static_cast<rlim_t>(next.get());
    setrlimit(RLIMIT_NOFILE, &none);
  }
  ~NoDescriptorLeft() { setrlimit(RLIMIT_NOFILE, &before_); }
  NoDescriptorLeft(const NoDescriptorLeft&) = delete;
  NoDescriptorLeft& operator=(const NoDescriptorLeft&) = delete;

 private:
  rlimit before_{};
};

/// Does the work with no descriptor left, and gives back what it then throws: what looks at it may need some again.
std::function<void()> without_descriptors(const std::function<void()>& work) {
  std::exception_ptr thrown;
  {
    const NoDescriptorLeft none;
    try {
      work();
    } catch (...) {
      thrown = std::current_exception();
    }
  }
  return [thrown] {
    if (thrown) std::rethrow_exception(thrown);
  };
}

TEST_F(BadRecords, NoneIsBadWhereTheMachineFails) {
  const auto source = open();
  EXPECT_THAT(without_descriptors([&] { leave_out_bad_records(*source, kImages, 1, *communicator_); }),
              ThrowsMessage<StorageError>(AllOf(HasSubstr(".JPEG"), HasSubstr("Too many open files"))));
  EXPECT_THAT(without_descriptors([&] { test::whole(*source); }),
              ThrowsMessage<StorageError>(HasSubstr("Too many open files")));
  EXPECT_THROW(without_descriptors([&] { open(); })(), StorageError) << "the folders cannot be listed";
  EXPECT_EQ(test::whole(*source).size, kImages);
}

TEST(InputErrors, AreTheFilesOrTheMachines) {
  for (const int error : {ENOENT, ENOTDIR, EISDIR, ELOOP, ENAMETOOLONG})
    EXPECT_EQ(kind_of_input_error(error), ExitCode::unusable_data) << error;
  for (const int error : {EACCES, EPERM, EIO, ESTALE, EMFILE, ENFILE, ENOMEM, ETIMEDOUT})
    EXPECT_EQ(kind_of_input_error(error), ExitCode::storage) << error;
}

TEST_F(BadRecords, MemoryOfALargeImageIsGivenBack) {
  const auto in_use = [] {
    const auto info = mallinfo2();
    return info.uordblks + info.hblkhd;
  };
  write(0, test::text(test::jpeg(4200, 4200, 30)));  // 71 MB decoded
  const auto source = open("2400/2400");             // needs it at its full size
  Batch batch;
  source->read(std::vector<std::int64_t>{1}, batch);
  const std::size_t before = in_use();
  source->read(std::vector<std::int64_t>{0}, batch);
  EXPECT_LT(in_use(), before + (std::size_t{16} << 20));
}

}  // namespace
}  // namespace credence
