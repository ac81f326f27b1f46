// State dicts as PyTorch writes them, held against files that PyTorch wrote; what is damaged or hostile is refused.
#include <gmock/gmock.h>

#include <chrono>
#include <cmath>
#include <cstdlib>

#include "credence/base/errors.h"
#include "credence/base/zip_archive.h"
#include "credence/checkpoint/pickle.h"
#include "credence/checkpoint/state_dict.h"
#include "credence/checkpoint/torch_tensors.h"
#include "unit/checkpoint/mutations.h"
#include "unit/checkpoint/sample.h"

namespace credence {
namespace {

using namespace credence::testing;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;

const std::filesystem::path kReferences = std::filesystem::path(CREDENCE_REFERENCES) / "checkpoint";
constexpr const char* kFiles[] = {"state_dict.pt", "legacy_state_dict.pt", "training_checkpoint.pt",
                                  "sample.safetensors"};

TEST(StateDicts, AreReadAsTorchSavedThem) {
  for (const char* name : {"state_dict.pt", "legacy_state_dict.pt"}) {
    const auto file = open_state_dict(kReferences / name);
    EXPECT_EQ(file->shapes().size(), 9U) << name;
    EXPECT_THAT(file->shapes().at("fc.weight"), ElementsAre(2, 3));
    EXPECT_THAT(file->read_doubles("fc.weight"), ElementsAre(0, 1, 2, 3, 4, 5));
    EXPECT_THAT(file->read_doubles("fc.bias"), ElementsAre(0.1, -1e300));
    EXPECT_THAT(file->read_doubles("view"), ElementsAre(4, 5, 6, 7));
    EXPECT_THAT(file->shapes().at("transposed"), ElementsAre(4, 3));
    EXPECT_THAT(file->read_doubles("transposed"), ElementsAre(0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11));
    EXPECT_THAT(file->read_doubles("half"), ElementsAre(0.333251953125, -65504.0));
    EXPECT_THAT(file->read_doubles("brain"), ElementsAre(3.140625, -1.0));
    EXPECT_THAT(file->read_doubles("steps"), ElementsAre(-7));
    EXPECT_THAT(file->shapes().at("steps"), IsEmpty());
    EXPECT_THAT(file->read_doubles("empty"), IsEmpty());
    EXPECT_THAT(message_of<DataError>([&] { file->read_doubles("flags"); }), HasSubstr("'flags' is not read"));
    EXPECT_THAT(message_of<DataError>([&] { file->read_doubles("fc"); }), HasSubstr("no tensor 'fc'"));
  }
}

TEST(StateDicts, AreFoundInTrainingCheckpoints) {
  const auto file = open_state_dict(kReferences / "training_checkpoint.pt");
  EXPECT_THAT(file->shapes(), ElementsAre(Pair("bias", ElementsAre(1)), Pair("weight", ElementsAre(1, 2))));
  // One step of size 0.1 down the gradient of x w + b at x = (1, 1), in float.
  EXPECT_THAT(file->read_doubles("weight"), ElementsAre(1.5F - 0.1F, -2.0F - 0.1F));
  EXPECT_THAT(file->read_doubles("bias"), ElementsAre(0.25F - 0.1F));
}

TEST(StateDicts, SafetensorsAreReadToo) {
  const auto file = open_state_dict(kReferences / "sample.safetensors");
  EXPECT_THAT(file->read_doubles("fc.weight"), ElementsAre(0, 1, 2, 3, 4, 5));
  for (const char* name : kFiles) EXPECT_TRUE(may_be_state_dict(kReferences / name)) << name;
  EXPECT_FALSE(may_be_state_dict(kReferences / "safetensors_sample.py"));
}

class HostileStateDicts : public ::testing::Test {
 protected:
  HostileStateDicts() : file_(directory_ / "a.pt") {}

  /// Reads all there is; an error that is no DataError fails.
  void read(const std::vector<char>& bytes) {
    write_bytes(file_, bytes);
    try {
      const auto dict = open_state_dict(file_);
      for (const auto& [name, shape] : dict->shapes()) read_one(*dict, name);
    } catch (const DataError&) {
    }
  }
  static void read_one(const StateDict& dict, const std::string& name) {
    try {
      dict.read_doubles(name);
    } catch (const DataError&) {
    }
  }
  /// A pickle by itself: a checksum guards it in an archive.
  void read_pickle(const std::vector<char>& bytes) {
    try {
      const checkpoints::Pickle pickle(file_, std::as_bytes(std::span(bytes)));
      checkpoints::find_tensors(file_, pickle.root());
    } catch (const DataError&) {
    }
  }
  std::string refusal(const std::string& pickle) {
    return message_of<DataError>([&] {
      const checkpoints::Pickle read(file_, std::as_bytes(std::span(pickle)));
      checkpoints::find_tensors(file_, read.root());
    });
  }

  ScratchDirectory directory_;
  std::filesystem::path file_;
};

TEST_F(HostileStateDicts, CutFilesAreRefused) {
  for (const char* name : kFiles) {
    write_bytes(file_, bytes_of_file(kReferences / name));
    for (std::uintmax_t length = std::filesystem::file_size(file_); length-- > 0;) {
      std::filesystem::resize_file(file_, length);
      EXPECT_NE(message_of<DataError>([&] {
                  const auto dict = open_state_dict(file_);
                  for (const auto& [tensor, shape] : dict->shapes()) {
                    if (tensor != "flags") dict->read_doubles(tensor);
                  }
                }),
                "")
          << name << " " << length;
      if (HasFailure()) return;
    }
  }
}

TEST_F(HostileStateDicts, EveryFlippedByteOfAnArchivesTensorsIsFound) {
  auto bytes = bytes_of_file(kReferences / "state_dict.pt");
  const float weights[] = {0, 1, 2, 3, 4, 5};
  const std::string pattern(reinterpret_cast<const char*>(weights), sizeof weights);
  const auto at = std::string(bytes.data(), bytes.size()).find(pattern);
  ASSERT_NE(at, std::string::npos);
  bytes[at + 5] = static_cast<char>(bytes[at + 5] ^ 1);
  write_bytes(file_, bytes);
  const auto dict = open_state_dict(file_);
  EXPECT_THAT(message_of<DataError>([&] { dict->read_doubles("fc.weight"); }), HasSubstr("is damaged"));
}

/// A pickled dict with one tensor of the given storage size, offset, shape and stride (each a number or a tuple).
std::string tensor_pickle(const std::string& elements, const std::string& offset, const std::string& shape,
                          const std::string& stride) {
  const auto text = [](const std::string& t) {
    std::string opcode = "X";
    opcode.push_back(static_cast<char>(t.size()));
    opcode.append(3, '\0');
    return opcode.append(t);
  };
  std::string pickle = "\x80\x02}";
  pickle +=
      text("w") + "ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + "ctorch\nFloatStorage\n" + text("0");
  pickle += text("cpu") + elements + "tQ" + offset + shape + stride + "\x89}tRs.";
  return pickle;
}
std::string number(std::int64_t value) {
  std::string text = "\x8a\x08";
  for (int i = 0; i < 8; ++i) text += static_cast<char>(value >> 8 * i);
  return text;
}

TEST_F(HostileStateDicts, TensorsBeyondTheirStorageAreRefused) {
  const auto pickle = [](std::int64_t elements, std::int64_t offset, std::int64_t size, std::int64_t stride) {
    return tensor_pickle(number(elements), number(offset), number(size) + "\x85", number(stride) + "\x85");
  };
  {
    const std::string good = pickle(6, 2, 4, 1);
    const checkpoints::Pickle read(file_, std::as_bytes(std::span(good)));
    const auto tensors = checkpoints::find_tensors(file_, read.root());
    EXPECT_EQ(tensors.at("w").count, 4) << "the rig itself";
  }
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
  EXPECT_THAT(refusal(pickle(6, 3, 4, 1)), HasSubstr("larger than its storage"));
  EXPECT_THAT(refusal(pickle(6, kMost, 4, 1)), HasSubstr("larger than its storage"));
  EXPECT_THAT(refusal(pickle(6, 0, kMost, kMost)), HasSubstr("larger than its storage"));
  EXPECT_THAT(refusal(pickle(6, 0, kMost, 0)), HasSubstr("larger than its storage"));
  EXPECT_THAT(refusal(pickle(6, 0, 2, -1)), HasSubstr("a stride that is none"));
  EXPECT_THAT(refusal(pickle(6, -1, 2, 1)), HasSubstr("begins nowhere"));
  EXPECT_THAT(refusal(pickle(-6, 0, 2, 1)), HasSubstr("no size"));
  EXPECT_THAT(refusal(pickle(kMost, 0, 2, 1)), HasSubstr("no size"));
}

TEST_F(HostileStateDicts, PicklesThatDoOtherThingsAreRefused) {
  using namespace std::string_literals;
  EXPECT_THAT(refusal("\x80\x02."), HasSubstr("needs a value"));
  EXPECT_THAT(refusal("\x80\x02t."), HasSubstr("needs a mark"));
  EXPECT_THAT(refusal("\x80\x02h\x07."), HasSubstr("not kept"));
  EXPECT_THAT(refusal("\x80\x02X\xff\xff\xff\x7f."s), HasSubstr("longer than what follows"));
  EXPECT_THAT(refusal("\x80\x02ios\nsystem\n)i."), HasSubstr("opcode 0x69"));
  EXPECT_THAT(refusal("\x80\x02}."), HasSubstr("holds no tensors"));
  EXPECT_THAT(refusal("\x80\x02K\x01."), HasSubstr("no dictionary"));
  // What a pickle calls is never called.
  EXPECT_THAT(refusal("\x80\x02}X\x01\0\0\0wcos\nsystem\nX\x07\0\0\0rm -rf ~\x85Rs."s), ::testing::Not(IsEmpty()));
  // It may hold itself.
  EXPECT_THAT(refusal("\x80\x02}q\0X\x01\0\0\0ah\0s."s), HasSubstr("holds no tensors"));
}

TEST_F(HostileStateDicts, DamagedFilesNeverCrash) {
  // CREDENCE_FUZZ_SECONDS=600 tries for longer, from another seed each second.
  const char* const asked = std::getenv("CREDENCE_FUZZ_SECONDS");
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(asked != nullptr ? std::atoi(asked) : 0);
  std::uint64_t seed = 0;
  do {
    for (const char* name : kFiles) {
      Mutations mutations(bytes_of_file(kReferences / name), seed);
      for (int i = 0; i < 500; ++i) read(mutations.next());
    }
    for (const char* name : {"state_dict", "training_checkpoint"}) {
      const ZipArchive archive(kReferences / (std::string(name) + ".pt"));
      const auto pickle = archive.read(std::string(name) + "/data.pkl", 1U << 20);
      const auto* const bytes = reinterpret_cast<const char*>(pickle.data());
      Mutations mutations({bytes, bytes + pickle.size()}, seed);
      for (int i = 0; i < 2000; ++i) read_pickle(mutations.next());
    }
    ++seed;
  } while (std::chrono::steady_clock::now() < end);
  RecordProperty("rounds", static_cast<int>(seed));
}

}  // namespace
}  // namespace credence
