#include "credence/base/text.h"

#include <gmock/gmock.h>

#include "credence/base/errors.h"

namespace credence {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

template <class Call>
std::string message_of(const Call& call) {
  try {
    call();
  } catch (const UserError& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(Spec, SplitsAtTheFirstColon) {
  EXPECT_EQ(parse_spec("csv:C:/a").name, "csv");
  EXPECT_EQ(parse_spec("csv:C:/a").arguments, "C:/a");
  EXPECT_EQ(parse_spec("moons").arguments, "");
}

TEST(Split, KeepsEmptyParts) {
  EXPECT_THAT(split("", ','), IsEmpty());
  EXPECT_THAT(split("a", ','), ElementsAre("a"));
  EXPECT_THAT(split("a,,b,", ','), ElementsAre("a", "", "b", ""));
}

TEST(Numbers, AreWholeTextsAndFinite) {
  EXPECT_EQ(parse_number("5e-3", "--lr"), 0.005);
  EXPECT_EQ(parse_integer("-7", "--n"), -7);
  for (const char* bad : {"", "1x", " 1", "nan", "inf", "1e999", "0x10"}) {
    EXPECT_THAT(message_of([&] { parse_number(bad, "--lr"); }), HasSubstr("--lr")) << bad;
  }
  for (const char* bad : {"", "1.5", "99999999999999999999"}) {
    EXPECT_THAT(message_of([&] { parse_integer(bad, "--n"); }), HasSubstr("--n")) << bad;
  }
}

TEST(Names, TheNearestIsSuggested) {
  const std::vector<std::string> known = {"--optimizer", "--posterior", "--prior"};
  EXPECT_EQ(nearest_name("--optimiser", known), "--optimizer");
  EXPECT_EQ(nearest_name("--pior", known), "--prior");
  const std::string message = message_of([&] { refuse_unknown("option", "--optimiser", known); });
  EXPECT_THAT(message, HasSubstr("'--optimizer'"));
  EXPECT_THAT(message, HasSubstr("--optimizer, --posterior, --prior"));
}

TEST(Errors, KeepTheirKindAcrossRanks) {
  EXPECT_THROW(throw_error(ExitCode::usage, "x"), UserError);
  EXPECT_THROW(throw_error(ExitCode::unusable_data, "x"), DataError);
  EXPECT_THROW(throw_error(ExitCode::directory_in_use, "x"), DirectoryInUseError);
  EXPECT_THROW(throw_error(ExitCode::storage, "x"), StorageError);
  EXPECT_THROW(throw_error(ExitCode::lost_rank, "x"), CommunicationError);
  EXPECT_THROW(throw_error(ExitCode::diverged, "x"), NumericalError);
  EXPECT_THROW(throw_error(ExitCode::done, "x"), InternalError);
}

}  // namespace
}  // namespace credence
