// Options as text: what is recorded, what is refused, what a resumed run may change.
#include "credence/training/options.h"

#include <gmock/gmock.h>

#include <set>

#include "credence/base/errors.h"
#include "credence/training/history.h"

namespace credence {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::ThrowsMessage;

OptionValues values_of(const std::string& ini) {
  return from_ini(ini, "here");
}

TEST(Options, DefaultsAreThoseOfTheTable) {
  const OptionValues values;
  EXPECT_EQ(values.text("network"), "lenet5");
  EXPECT_EQ(values.number("initial-scale"), 0.0067);
  EXPECT_EQ(values.integer("batch"), 256);
  EXPECT_EQ(values.text("lr-schedule"), "cosine");
  EXPECT_TRUE(values.text("shards").empty());
  EXPECT_FALSE(values.given("network"));
  EXPECT_THROW(values.text("no-such-option"), InternalError);
}

TEST(Options, NumbersAreChecked) {
  const OptionValues values = values_of("lr = fast\nbatch = 2.5\nbeta1 = nan\n");
  EXPECT_THAT([&] { values.number("lr"); }, ThrowsMessage<UserError>(AllOf(HasSubstr("--lr"), HasSubstr("fast"))));
  EXPECT_THROW(values.integer("batch"), UserError);
  EXPECT_THROW(values.number("beta1"), UserError);
}

TEST(Ini, RoundTrip) {
  OptionValues values;
  values.set("lr", {"0.01"});
  values.set("posterior", {"mean-field", "fc=point", "a=b=mean-field"});
  values.set("data", {"csv:some dir/file=1.csv"});
  values.set("threads", {"3"});
  const std::string all = to_ini(values, true);
  const OptionValues again = from_ini(all, "here");
  EXPECT_EQ(to_ini(again, true), all);
  EXPECT_THAT(again.texts("posterior"), ElementsAre("mean-field", "fc=point", "a=b=mean-field"));
  EXPECT_EQ(again.text("data"), "csv:some dir/file=1.csv");
  EXPECT_EQ(again.text("threads"), "3");
  EXPECT_EQ(again.text("batch"), "256");  // defaults are recorded too
  EXPECT_TRUE(again.given("batch"));
  // What a checkpoint records does not depend on the machine.
  const std::string recorded = to_ini(values, false);
  EXPECT_THAT(recorded, AllOf(Not(HasSubstr("threads")), Not(HasSubstr("timeout")), Not(HasSubstr("stop-after")),
                              HasSubstr("lr = 0.01"), HasSubstr("keep = 3")));
}

TEST(Options, NumbersOutOfRangeAreNamed) {
  EXPECT_NO_THROW(require_in_range(values_of("keep = 2\nlr-warmup = 0\nswag-every =\nlr = fast\n")));
  EXPECT_THAT([] { require_in_range(values_of("lr-warmup = -5\n")); },
              ThrowsMessage<UserError>(AllOf(HasSubstr("--lr-warmup"), HasSubstr("0"), HasSubstr("-5"))));
  for (const char* outside : {"keep = 1", "max-bad-records = -1", "stop-after = -3", "stop-after = 1.5",
                              "steps = 4294967296", "swag-start = 1", "momentum = 5", "temperature = -1",
                              "initial-scale = 1e40", "timeout-seconds = 0", "shards = 4294967297"}) {
    EXPECT_THROW(require_in_range(values_of(outside)), UserError) << outside;
  }
}

TEST(Ini, CommentsSpacesAndSections) {
  const OptionValues values = values_of("# a comment\n\n[section]\n   lr=0.25   \r\n\tseed =  7\n");
  EXPECT_EQ(values.number("lr"), 0.25);
  EXPECT_EQ(values.integer("seed"), 7);
}

TEST(Ini, SaysWhereItIsWrong) {
  EXPECT_THAT([] { values_of("lr = 1\nnetwrok = lenet5\n"); },
              ThrowsMessage<UserError>(AllOf(HasSubstr("here"), HasSubstr("line 2"), HasSubstr("netwrok"),
                                             HasSubstr("did you mean 'network'"))));
  EXPECT_THAT([] { values_of("lr = 1\nlr = 2\n"); }, ThrowsMessage<UserError>(HasSubstr("lr is given twice")));
  EXPECT_THAT([] { values_of("just words\n"); }, ThrowsMessage<UserError>(HasSubstr("just words")));
}

TEST(Options, NamesAreUniqueAndDescribed) {
  std::set<std::string_view> names;
  for (const OptionInfo& option : training_options()) {
    EXPECT_TRUE(names.insert(option.name).second) << option.name;
    EXPECT_FALSE(option.help.empty()) << option.name;
    EXPECT_EQ(find_option(option.name), &option);
  }
  EXPECT_EQ(find_option("no-such-option"), nullptr);
}

const char* const kRecorded =
    "network = lenet5\nlr = 5e-3\nshards = 4\nprior = normal:1\nprior = fc=none\nepochs = 10\nthreads = 2\n";

TEST(Resume, OptionsNotGivenTakeTheirRecordedValues) {
  const OptionValues merged = merge_for_resume(values_of(kRecorded), values_of(""));
  EXPECT_EQ(merged.text("shards"), "4");
  EXPECT_THAT(merged.texts("prior"), ElementsAre("normal:1", "fc=none"));
}

TEST(Resume, EqualNumbersMatchHoweverTheyAreWritten) {
  EXPECT_NO_THROW(merge_for_resume(values_of(kRecorded), values_of("lr = 0.005\nshards = 4.0\n")));
  EXPECT_NO_THROW(merge_for_resume(values_of(kRecorded), values_of("batch = 256\n")));  // the default, recorded or not
  EXPECT_THROW(merge_for_resume(values_of(kRecorded), values_of("lr = 0.0050001\n")), UserError);
}

TEST(Resume, NamesEveryIdentityOptionThatDiffers) {
  EXPECT_THAT([] { merge_for_resume(values_of(kRecorded), values_of("network = mlp:5\nlr = 1e-3\nseed = 0\n")); },
              ThrowsMessage<UserError>(AllOf(HasSubstr("--network"), HasSubstr("mlp:5"), HasSubstr("lenet5"),
                                             HasSubstr("--lr"), Not(HasSubstr("--seed")))));
  // Rules are compared as a list.
  EXPECT_THROW(merge_for_resume(values_of(kRecorded), values_of("prior = normal:1\n")), UserError);
  EXPECT_NO_THROW(merge_for_resume(values_of(kRecorded), values_of("prior = normal:1\nprior = fc=none\n")));
  for (const OptionInfo& option : training_options()) {
    const std::string other = std::string(option.name) + " = something-else\n";
    if (option.kind == OptionKind::identity) {
      EXPECT_THROW(merge_for_resume(values_of(kRecorded), values_of(other)), UserError) << option.name;
    } else {
      EXPECT_NO_THROW(merge_for_resume(values_of(kRecorded), values_of(other))) << option.name;
    }
  }
}

TEST(Resume, ChangedOptionsAreFoundFromEitherSide) {
  const OptionValues a = values_of("lr = 5e-3\nimage-size = 64\nkeep = 3\nthreads = 1\nepochs = 3\n");
  const OptionValues b = values_of("lr = 0.005\nkeep = 9\nthreads = 2\nepochs = 4\n");
  EXPECT_THAT(changed_options(a, b), ElementsAre("image-size"));
  EXPECT_THAT(changed_options(b, a), ElementsAre("image-size"));
  EXPECT_THAT(changed_options(a, a), ElementsAre());
}

TEST(Resume, SettingsKeepTheirRecordedValuesAndMayChange) {
  const OptionValues recorded = from_ini(to_ini(values_of("keep = 50\ncheckpoint-every = 7\n"), false), "here");
  const OptionValues merged = merge_for_resume(recorded, values_of("checkpoint-every = 9\n"));
  EXPECT_EQ(merged.integer("keep"), 50);
  EXPECT_EQ(merged.integer("checkpoint-every"), 9);
}

TEST(Resume, HorizonAndMachineMayChange) {
  const OptionValues merged = merge_for_resume(values_of(kRecorded), values_of("epochs = 12\nthreads = 8\n"));
  EXPECT_EQ(merged.integer("epochs"), 12);
  EXPECT_EQ(merged.integer("threads"), 8);
  // A horizon in epochs replaces a recorded one in steps.
  const OptionValues other = merge_for_resume(values_of("steps = 100\n"), values_of("epochs = 3\n"));
  EXPECT_TRUE(other.text("steps").empty());
  EXPECT_EQ(merge_for_resume(values_of("epochs = 3\n"), values_of("steps = 7\n")).integer("steps"), 7);
}

TEST(History, KeepsEveryFieldOfEveryStep) {
  History history;
  EXPECT_EQ(history.size(), 0);
  StepRecord record{.step = 1,
                    .epoch = 2,
                    .elbo = 3,
                    .objective = 4,
                    .expected_log_likelihood = 5,
                    .kl = 6,
                    .learning_rate = 7,
                    .gradient_norm = 8,
                    .accuracy = 9,
                    .seconds = 10,
                    .data_seconds = 11,
                    .communication_seconds = 12,
                    .checkpoint_seconds = 13};
  history.append(record);
  record.step = 2;
  history.append(record);
  EXPECT_EQ(history.size(), 2);
  EXPECT_THAT(history.column("history/step"), ElementsAre(1, 2));
  const std::pair<const char*, double> columns[] = {{"history/epoch", 2},
                                                    {"history/elbo", 3},
                                                    {"history/objective", 4},
                                                    {"history/expected_log_likelihood", 5},
                                                    {"history/kl", 6},
                                                    {"history/learning_rate", 7},
                                                    {"history/gradient_norm", 8},
                                                    {"history/accuracy", 9},
                                                    {"history/seconds", 10},
                                                    {"timing/data_seconds", 11},
                                                    {"timing/communication_seconds", 12},
                                                    {"timing/checkpoint_seconds", 13}};
  for (const auto& [path, value] : columns) EXPECT_THAT(history.column(path), ElementsAre(value, value)) << path;
  EXPECT_EQ(history.columns().size(), std::size(columns) + 1);
  EXPECT_THROW(history.column("history/nothing"), InternalError);
}

}  // namespace
}  // namespace credence
