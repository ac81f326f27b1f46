// Files whose digests are right and whose HDF5 is made to do harm.

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <functional>
#include <random>

#include "credence/base/errors.h"
#include "credence/base/hdf5.h"
#include "credence/base/limited_child.h"
#include "credence/base/stopwatch.h"
#include "unit/checkpoint/resealed.h"
#include "unit/checkpoint/sample.h"

namespace credence {
namespace {

using namespace credence::testing;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr char kDigest[] = "00000000000000000000000000000000";

class Hostile : public ::testing::Test {
 protected:
  Hostile() : file_(directory_ / "checkpoint-00000001.h5") {}

  /// Writes a checkpoint, lets `change` alter it through HDF5, makes the digests right; the message of the refusal.
  std::string refusal(const std::function<void(hid_t)>& change) {
    write_checkpoint(file_, make_sample().contents);
    const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
    H5Pset_file_locking(access, false, true);
    const hid_t file = H5Fopen(file_.c_str(), H5F_ACC_RDWR, access);
    EXPECT_GE(file, 0);
    change(file);
    EXPECT_GE(H5Fclose(file), 0);
    H5Pclose(access);
    write_bytes(file_, resealed(bytes_of_file(file_)));
    return message_of<DataError>([&] { Checkpoint{file_}; });
  }

  static hid_t creation() { return H5Pcreate(H5P_DATASET_CREATE); }
  static void add_dataset(hid_t file, const char* name, hid_t space, hid_t properties, hid_t type = H5T_IEEE_F32LE) {
    const hid_t dataset = H5Dcreate2(file, name, type, space, H5P_DEFAULT, properties, H5P_DEFAULT);
    ASSERT_GE(dataset, 0) << name;
    hdf5::write_attribute({"test"}, dataset, "xxh3_128", std::string(kDigest));
    H5Dclose(dataset);
  }
  static hid_t space_of(std::vector<hsize_t> extents, const hsize_t* limits = nullptr) {
    return H5Screate_simple(static_cast<int>(extents.size()), extents.data(), limits);
  }

  ScratchDirectory directory_;
  std::filesystem::path file_;
};

TEST_F(Hostile, TheRigItselfIsAccepted) {
  // An additional attribute is allowed: shows that refusals below come from what was changed.
  write_checkpoint(file_, make_sample().contents);
  const hid_t file = H5Fopen(file_.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  hdf5::write_attribute({"test"}, file, "note", std::string("hello"));
  H5Fclose(file);
  write_bytes(file_, resealed(bytes_of_file(file_)));
  EXPECT_EQ(std::get<std::string>(Checkpoint(file_).attributes().at("note")), "hello");
}

TEST_F(Hostile, ExternalStorageIsRefused) {
  EXPECT_THAT(refusal([](hid_t file) {
                const hid_t properties = creation();
                H5Pset_external(properties, "/etc/passwd", 0, 64);
                add_dataset(file, "buffers/secret", space_of({16}), properties);
              }),
              AllOf(HasSubstr(file_.string()), HasSubstr("'buffers/secret' has external storage")));
}

TEST_F(Hostile, SoftAndExternalLinksAreRefused) {
  EXPECT_THAT(refusal([](hid_t file) {
                H5Lcreate_soft("/posterior/bias/mean", file, "buffers/alias", H5P_DEFAULT, H5P_DEFAULT);
              }),
              HasSubstr("'buffers/alias' is a soft link"));
  EXPECT_THAT(refusal([](hid_t file) {
                H5Lcreate_external("/tmp/other.h5", "/x", file, "buffers/elsewhere", H5P_DEFAULT, H5P_DEFAULT);
              }),
              HasSubstr("'buffers/elsewhere' is an external link"));
}

TEST_F(Hostile, HardLinksThatRepeatOrNestAreRefused) {
  EXPECT_THAT(refusal([](hid_t file) {
                H5Lcreate_hard(file, "/posterior/bias/mean", file, "buffers/alias", H5P_DEFAULT, H5P_DEFAULT);
              }),
              HasSubstr("overlaps another array"));
  refusal([](hid_t file) { H5Lcreate_hard(file, "/posterior", file, "posterior/again", H5P_DEFAULT, H5P_DEFAULT); });
}

TEST_F(Hostile, VirtualDatasetsAreRefused) {
  EXPECT_THAT(refusal([](hid_t file) {
                const hid_t properties = creation();
                H5Pset_virtual(properties, space_of({6}), "/tmp/other.h5", "x", space_of({6}));
                add_dataset(file, "buffers/virtual", space_of({6}), properties);
              }),
              HasSubstr("'buffers/virtual' is a virtual dataset"));
}

TEST_F(Hostile, ChunkedCompactAndFilteredDatasetsAreRefused) {
  const auto chunked = [](bool deflate) {
    return [deflate](hid_t file) {
      const hid_t properties = creation();
      const hsize_t chunk = 4;
      H5Pset_chunk(properties, 1, &chunk);
      if (deflate) H5Pset_deflate(properties, 6);
      add_dataset(file, "buffers/chunked", space_of({8}), properties);
    };
  };
  EXPECT_THAT(refusal(chunked(false)), HasSubstr("'buffers/chunked' is not stored contiguously"));
  EXPECT_THAT(refusal(chunked(true)), HasSubstr("'buffers/chunked' is not stored contiguously"));
  EXPECT_THAT(refusal([](hid_t file) {
                const hid_t properties = creation();
                H5Pset_layout(properties, H5D_COMPACT);
                add_dataset(file, "buffers/compact", space_of({8}), properties);
              }),
              HasSubstr("'buffers/compact' is not stored contiguously"));
}

TEST_F(Hostile, HugeShapesAreRefusedBeforeAnythingIsAllocated) {
  for (const std::vector<hsize_t>& extents :
       {std::vector<hsize_t>{hsize_t{10} << 50}, {hsize_t{1} << 40, hsize_t{1} << 40}, {hsize_t{1} << 62, 8, 0}}) {
    const Stopwatch watch;
    const std::string message = refusal([&](hid_t file) {
      const hid_t properties = creation();
      H5Pset_alloc_time(properties, H5D_ALLOC_TIME_LATE);
      const hid_t dataset =
          H5Dcreate2(file, "buffers/huge", H5T_IEEE_F32LE, space_of(extents), H5P_DEFAULT, properties, H5P_DEFAULT);
      if (dataset < 0) {  // HDF5 itself may refuse to make it
        H5Lcreate_soft("x", file, "buffers/huge", H5P_DEFAULT, H5P_DEFAULT);
        return;
      }
      hdf5::write_attribute({"test"}, dataset, "xxh3_128", std::string(kDigest));
      H5Dclose(dataset);
    });
    EXPECT_THAT(message, HasSubstr("'buffers/huge'"));
    EXPECT_LT(watch.seconds(), 5.0);
  }
}

TEST_F(Hostile, UnexpectedTypesSpacesAndObjectsAreRefused) {
  const auto of_type = [](hid_t type) {
    return [type](hid_t file) { add_dataset(file, "buffers/odd", space_of({4}), H5P_DEFAULT, type); };
  };
  for (const hid_t type : {H5T_IEEE_F32BE, H5T_STD_U64LE, H5T_STD_I32LE, H5T_STD_REF_OBJ, H5T_C_S1, H5T_STD_I8LE}) {
    EXPECT_THAT(refusal(of_type(type)), HasSubstr("'buffers/odd' has an element type"));
  }
  EXPECT_THAT(refusal([](hid_t file) { add_dataset(file, "buffers/odd", H5Screate(H5S_NULL), H5P_DEFAULT); }),
              HasSubstr("'buffers/odd' has no shape"));
  refusal([](hid_t file) {
    H5Tcommit2(file, "buffers/type", H5Tcopy(H5T_IEEE_F32LE), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  });
  refusal([](hid_t file) { add_dataset(file, "loose", space_of({4}), H5P_DEFAULT); });
  refusal([](hid_t file) { add_dataset(file, "history/loss", space_of({4}), H5P_DEFAULT); });
}

TEST_F(Hostile, WrongMissingOrOddAttributesAreRefused) {
  for (const char* name :
       {"format", "format_version", "step", "epoch", "seed", "shards", "world_size", "dataset_size", "complete"}) {
    EXPECT_THAT(refusal([&](hid_t file) { H5Adelete(file, name); }), HasSubstr(name));
  }
  const auto replace = [](const char* name, const hdf5::Scalar& value) {
    return [=](hid_t file) {
      H5Adelete(file, name);
      hdf5::write_attribute({"test"}, file, name, value);
    };
  };
  EXPECT_THAT(refusal(replace("step", 1.5)), HasSubstr("integer as attribute 'step'"));
  EXPECT_THAT(refusal(replace("epoch", std::string("two"))), HasSubstr("number as attribute 'epoch'"));
  EXPECT_THAT(refusal(replace("complete", std::int64_t{0})), HasSubstr("not marked complete"));
  EXPECT_THAT(refusal(replace("format", std::string("other"))), HasSubstr("format"));
  EXPECT_THAT(refusal(replace("format_version", std::int64_t{2})), HasSubstr("format_version"));
  EXPECT_THAT(refusal([](hid_t file) {
                const hid_t space = space_of({4});
                H5Aclose(H5Acreate2(file, "vector", H5T_IEEE_F64LE, space, H5P_DEFAULT, H5P_DEFAULT));
              }),
              HasSubstr("'vector' is not a scalar attribute"));
  EXPECT_THAT(refusal([](hid_t file) {
                H5Aclose(H5Acreate2(file, "odd", H5T_STD_I16BE, H5Screate(H5S_SCALAR), H5P_DEFAULT, H5P_DEFAULT));
              }),
              HasSubstr("'odd' is an attribute of an unexpected type"));
  EXPECT_THAT(refusal([](hid_t file) { H5Adelete_by_name(file, "buffers/mask", "xxh3_128", H5P_DEFAULT); }),
              HasSubstr("lacks the attribute 'xxh3_128'"));
  EXPECT_THAT(refusal([](hid_t file) { H5Ldelete(file, "config", H5P_DEFAULT); }), HasSubstr("config"));
}

TEST_F(Hostile, ATensorWithAWrongDigestIsRefusedWhenRead) {
  write_checkpoint(file_, make_sample().contents);
  const hid_t file = H5Fopen(file_.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  add_dataset(file, "buffers/wrong", space_of({4}), [] {
    const hid_t properties = creation();
    H5Pset_alloc_time(properties, H5D_ALLOC_TIME_EARLY);
    return properties;
  }());
  H5Fclose(file);
  write_bytes(file_, resealed(bytes_of_file(file_)));
  EXPECT_THAT(message_of<DataError>([&] { Checkpoint(file_).read_doubles("buffers/wrong"); }),
              HasSubstr("'buffers/wrong'"));
  EXPECT_THAT(verify_checkpoint(file_), ::testing::ElementsAre(HasSubstr("'buffers/wrong'")));
}

TEST_F(Hostile, ThousandsOfMutationsNeverReachThisProcess) {
  constexpr int kTrials = 2000;
  write_checkpoint(file_, make_sample().contents);
  const auto good = bytes_of_file(file_);
  std::mt19937 random(20240607);
  const auto below = [&](std::size_t bound) {
    return std::uniform_int_distribution<std::size_t>(0, bound - 1)(random);
  };
  int refused = 0;
  int died = 0;
  for (int trial = 0; trial < kTrials; ++trial) {
    auto bytes = good;
    for (std::size_t run = 1 + below(4); run > 0; --run) {
      const std::size_t at = checkpoints::kUserBlockBytes + below(good.size() - checkpoints::kUserBlockBytes);
      const std::size_t end = std::min(bytes.size(), at + 1 + below(12));
      for (std::size_t i = at; i < end; ++i) bytes[i] = static_cast<char>(below(256));
    }
    write_bytes(file_, resealed(bytes));
    const Stopwatch watch;
    try {
      const Checkpoint checkpoint(file_);
      for (const ArrayView& array : checkpoint.arrays()) read_array(checkpoint, array);
    } catch (const DataError& error) {
      ++refused;
      ASSERT_THAT(error.what(), HasSubstr(file_.string()));
      died += std::string(error.what()).find("the inspecting process died") != std::string::npos ? 1 : 0;
    }
    ASSERT_LT(watch.seconds(), 30.0) << "trial " << trial;
  }
  RecordProperty("refused", refused);
  RecordProperty("inspector_died", died);
  EXPECT_GT(refused, kTrials / 4) << "the mutations hardly touched anything";
}

TEST(LimitedChild, ReturnsAnswersAndReportsEveryWayToDie) {
  const std::filesystem::path file = "some.h5";
  const std::string long_answer(3'000'000, 'a');
  EXPECT_EQ(run_in_limited_child(file, [&] { return long_answer; }), long_answer);
  EXPECT_EQ(run_in_limited_child(file, [] { return std::string(); }), "");
  const auto message = [&](const std::function<std::string()>& work, const ChildLimits& limits = {}) {
    return message_of<DataError>([&] { run_in_limited_child(file, work, limits); });
  };
  EXPECT_THAT(message([]() -> std::string { throw DataError("some.h5: odd"); }), ::testing::StrEq("some.h5: odd"));
  EXPECT_THAT(message([]() -> std::string { throw std::runtime_error("odd"); }), ::testing::StrEq("some.h5: odd"));
  EXPECT_THAT(message([]() -> std::string {
                raise(SIGSEGV);
                return {};
              }),
              HasSubstr("signal 11"));
  EXPECT_THAT(message([]() -> std::string { _exit(0); }), HasSubstr("died"));
  ChildLimits limits;
  limits.seconds = 0.3;
  const Stopwatch watch;
  EXPECT_THAT(message(
                  []() -> std::string {
                    for (;;) pause();
                  },
                  limits),
              HasSubstr("took longer than 0.3 s"));
  EXPECT_LT(watch.seconds(), 5.0);
  limits = {};
  limits.answer_bytes = 1000;
  EXPECT_THAT(message([&] { return long_answer; }, limits), HasSubstr("too large"));
}

}  // namespace
}  // namespace credence
