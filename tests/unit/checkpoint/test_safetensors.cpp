// Reading is held against a file of the format's own library; what is hostile is written by hand.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <sys/stat.h>

#include <cmath>
#include <limits>

#include "credence/base/errors.h"
#include "credence/checkpoint/safetensors.h"
#include "unit/checkpoint/sample.h"

namespace credence {
namespace {

using namespace credence::testing;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;

const std::filesystem::path kSample = std::filesystem::path(CREDENCE_REFERENCES) / "checkpoint/sample.safetensors";

TEST(Safetensors, ReadsWhatTheFormatsOwnLibraryWrote) {
  const SafetensorsFile file(kSample);
  EXPECT_EQ(file.metadata().at("note"), "written by safetensors 0.8.0");
  EXPECT_EQ(file.tensors().size(), 7U);
  EXPECT_THAT(file.read_doubles("half"), ElementsAre(0.333251953125, -65504.0, std::ldexp(1.0, -24)));
  EXPECT_THAT(file.read_doubles("brain"), ElementsAre(3.140625, -1.0));
  EXPECT_THAT(file.read_doubles("fc.weight"), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(file.tensors().at("fc.weight").shape, ElementsAre(2, 3));
  EXPECT_THAT(file.read_doubles("fc.bias"), ElementsAre(0.1, -1e300));
  EXPECT_THAT(file.read_doubles("steps"), ElementsAre(-7));
  EXPECT_THAT(file.tensors().at("steps").shape, IsEmpty());
  EXPECT_THAT(file.read_doubles("empty"), IsEmpty());
  EXPECT_THAT(message_of<DataError>([&] { file.read_doubles("flags"); }), HasSubstr("'flags' is not read"));
  EXPECT_THAT(message_of<DataError>([&] { file.read_doubles("fc"); }), HasSubstr("no tensor 'fc'"));
}

class SafetensorsFiles : public ::testing::Test {
 protected:
  SafetensorsFiles() : file_(directory_ / "a.safetensors") {}

  void write(std::uint64_t header_bytes, const std::string& rest) {
    std::string bytes(8, '\0');
    std::memcpy(bytes.data(), &header_bytes, 8);
    std::ofstream(file_, std::ios::binary) << bytes << rest;
  }
  /// What reading says of a file with this header and so many zeros behind it.
  std::string refusal(const std::string& header, std::size_t data = 8) {
    write(header.size(), header + std::string(data, '\0'));
    return message_of<DataError>([&] { SafetensorsFile{file_}; });
  }

  ScratchDirectory directory_;
  std::filesystem::path file_;
};

std::string entry(const std::string& name, const std::string& shape, const std::string& offsets,
                  const std::string& type = "F32") {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":{}}})", name, type, shape, offsets);
}

TEST_F(SafetensorsFiles, EveryHalfIsRead) {
  std::string header = "{" + entry("h", "[65536]", "[0,131072]", "F16") + "}";
  std::string data;
  for (unsigned bits = 0; bits < 65536; ++bits) data += {static_cast<char>(bits & 0xff), static_cast<char>(bits >> 8)};
  write(header.size(), header + data);
  const auto values = SafetensorsFile(file_).read_doubles("h");
  for (unsigned bits = 0; bits < 65536; ++bits) {
    // IEEE 754-2019, sec. 3.4: sign, 5 bits of exponent biased by 15, 10 bits of fraction.
    const double sign = (bits & 0x8000U) != 0 ? -1.0 : 1.0;
    const unsigned exponent = bits >> 10 & 31U;
    const double fraction = (bits & 1023U) / 1024.0;
    if (exponent == 31 && fraction > 0) {
      EXPECT_TRUE(std::isnan(values[bits])) << bits;
      continue;
    }
    const double expected = exponent == 31  ? std::numeric_limits<double>::infinity()
                            : exponent == 0 ? fraction * std::pow(2.0, -14)
                                            : (1.0 + fraction) * std::pow(2.0, static_cast<double>(exponent) - 15.0);
    EXPECT_EQ(values[bits], sign * expected) << bits;
  }
}

TEST_F(SafetensorsFiles, RoundTripKeepsTypesShapesAndBits) {
  Sample sample;
  sample.add<float>("b", {2, 2}, {1.5F, -0.0F, 1e-45F, 3.0F});
  sample.add<std::int64_t>("count", {}, {std::int64_t{-5}});
  sample.add<double>("a.scale", {1}, {0.1});
  sample.add<float>("none", {0}, {});
  write_safetensors(file_, {{"step", "12"}, {"format", "pt"}}, sample.contents.arrays);
  const auto first = bytes_of_file(file_);
  write_safetensors(file_, {{"format", "pt"}, {"step", "12"}}, sample.contents.arrays);
  EXPECT_EQ(first, bytes_of_file(file_));

  const SafetensorsFile read(file_);
  EXPECT_THAT(read.metadata(), ElementsAre(Pair("format", "pt"), Pair("step", "12")));
  EXPECT_THAT(read.read_doubles("b"), ElementsAre(1.5, -0.0, 1e-45F, 3.0));
  EXPECT_TRUE(std::signbit(read.read_doubles("b")[1]));
  EXPECT_THAT(read.read_doubles("count"), ElementsAre(-5));
  EXPECT_THAT(read.read_doubles("a.scale"), ElementsAre(0.1));
  EXPECT_EQ(read.tensors().at("a.scale").type, ElementType::f64);
  EXPECT_THAT(read.tensors().at("none").shape, ElementsAre(0));
  // The data begins at a multiple of eight.
  EXPECT_EQ(first[0] % 8, 0);

  sample.add<float>("b", {1}, {1.0F});
  EXPECT_THAT(message_of<UserError>([&] { write_safetensors(file_, {}, sample.contents.arrays); }), HasSubstr("b"));
  EXPECT_EQ(first, bytes_of_file(file_));
}

TEST_F(SafetensorsFiles, HostileHeadersAreRefused) {
  const std::string accepted = "{" + entry("a", "[2]", "[0,8]") + "}";
  write(accepted.size(), accepted + std::string(8, '\0'));
  ASSERT_THAT(SafetensorsFile(file_).read_doubles("a"), ElementsAre(0, 0)) << "the rig itself";
  const std::string good = entry("a", "[1]", "[0,4]");
  const std::pair<std::string, const char*> cases[] = {
      {"", "does not begin"},
      {"[]", "does not begin"},
      {"{" + good, "not a JSON object"},
      {"{" + good + "}{", "not a JSON object"},
      {"{\"a\":1}", "must have dtype"},
      {"{" + good + "," + entry("a", "[1]", "[4,8]") + "}", "'a' is there twice"},
      {R"({"a":{"dtype":"F32","dtype":"F64","shape":[2],"data_offsets":[0,8]}})", "'dtype' is there twice"},
      {"{" + good + "," + entry("b", "[2]", "[0,8]") + "}", "share the byte 0"},
      {"{" + good + "," + entry("b", "[1]", "[2,6]") + "}", "share the byte 2"},
      {"{" + good + "," + entry("b", "[0]", "[2,2]") + "}", "share the byte 2"},
      {"{" + good + "}", "belong to no tensor"},
      {"{" + entry("a", "[1]", "[4,8]") + "}", "belong to no tensor"},
      {"{}", "belong to no tensor"},
      {"{" + entry("a", "[4]", "[0,16]") + "}", "outside the file"},
      {"{" + entry("a", "[2]", "[8,0]") + "}", "outside the file"},
      {"{" + entry("a", "[1]", "[18446744073709551608,18446744073709551612]") + "}", "outside the file"},
      {"{" + entry("a", "[2]", "[-8,8]") + "}", "not two positions"},
      {"{" + entry("a", "[2]", "[0.0,8.0]") + "}", "not two positions"},
      {"{" + entry("a", "[2]", "[0]") + "}", "not two positions"},
      {"{" + entry("a", "[3]", "[0,8]") + "}", "takes 12"},
      {"{" + entry("a", "[4294967296,4294967296,4]", "[0,8]") + "}", "larger than the file"},
      {"{" + entry("a", "[9223372036854775808,2]", "[0,8]") + "}", "larger than the file"},
      {"{" + entry("a", "[0,18446744073709551615]", "[0,0]") + "}", "larger than the file"},
      {"{" + entry("a", "[-2]", "[0,8]") + "}", "no size"},
      {"{" + entry("a", "[1.5]", "[0,8]") + "}", "no size"},
      {"{" + entry("a", "2", "[0,8]") + "}", "not a list"},
      {"{" + entry("a", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,2]", "[0,8]") + "}",
       "at most 32"},
      {"{" + entry("a", "[2]", "[0,8]", "F4") + "}", "unknown type 'F4'"},
      {"{" + entry("a", "[2]", "[0,8]", "f32") + "}", "unknown type 'f32'"},
      {R"({"a":{"dtype":{"F32":[]},"shape":[2],"data_offsets":[0,8]}})", "unknown type"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"more":1}})", "must have dtype"},
      {R"({"__metadata__":[]})", "metadata is not"},
      {R"({"__metadata__":{"step":1}})", "'step' is not a text"},
      {"{\"a\xff\":1}", "not a JSON object"},
      {R"({"a":)" + std::string(1'000'000, '[') + "}", "not a JSON object"},
      {R"({"a":)" + std::string(1'000'000, '[') + std::string(1'000'000, ']') + "}", "must have dtype"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":)" + std::string(1'000'000, '[') +
           std::string(1'000'000, ']') + "}}",
       "not two positions"},
  };
  for (const auto& [header, words] : cases) {
    EXPECT_THAT(refusal(header), HasSubstr(words)) << header.substr(0, 200);
  }
}

TEST_F(SafetensorsFiles, HeaderLengthsAreComparedWithTheFile) {
  const auto why = [&] { return message_of<DataError>([&] { SafetensorsFile{file_}; }); };
  for (const std::uint64_t length : {std::uint64_t{3}, ~std::uint64_t{0}, ~std::uint64_t{0} - 7}) {
    write(length, "{}");
    EXPECT_THAT(why(), HasSubstr("header claims"));
  }
  std::ofstream(file_, std::ios::binary) << "1234567";
  EXPECT_THAT(why(), HasSubstr("too short"));
  // Sparse: as large as claimed, and never read.
  write((16U << 20) + 1, "{}");
  std::filesystem::resize_file(file_, 32U << 20);
  EXPECT_THAT(why(), HasSubstr("at most 16777216"));
  std::filesystem::remove(file_);
  EXPECT_THAT(why(), HasSubstr("No such file"));
  ASSERT_EQ(mkfifo(file_.c_str(), 0600), 0);
  EXPECT_THAT(why(), HasSubstr("not a regular file"));
  EXPECT_THAT(message_of<DataError>([&] { SafetensorsFile{directory_.path()}; }), HasSubstr("not a regular file"));
}

TEST_F(SafetensorsFiles, TruncatedAndAlteredFilesNeverCrash) {
  const auto good = bytes_of_file(kSample);
  for (std::size_t length = 0; length < good.size(); ++length) {
    write_bytes(file_, {good.begin(), good.begin() + static_cast<std::ptrdiff_t>(length)});
    EXPECT_NE(message_of<DataError>([&] { SafetensorsFile{file_}; }), "") << length;
  }
  for (std::size_t i = 0; i < good.size(); ++i) {
    for (const auto flip : {0x01, 0x10, 0x80}) {
      auto changed = good;
      changed[i] = static_cast<char>(changed[i] ^ flip);
      write_bytes(file_, changed);
      try {
        const SafetensorsFile file(file_);
        for (const auto& [name, tensor] : file.tensors()) {
          if (tensor.type != ElementType::other) file.read_doubles(name);
        }
      } catch (const DataError&) {
        // Whatever is not refused must be read without harm.
      }
    }
  }
}

}  // namespace
}  // namespace credence
