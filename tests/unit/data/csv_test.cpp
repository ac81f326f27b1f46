#include "credence/data/csv.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include <fstream>
#include <map>
#include <sstream>

#include "credence/base/errors.h"
#include "unit/data/files.h"

namespace credence {
namespace {

using test::TemporaryDirectory;
using test::whole;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::ThrowsMessage;

class Csv : public testing::Test {
 protected:
  std::unique_ptr<DataSource> read(const std::string& text, Split split = Split::train) {
    return read_csv(directory_.write("table.csv", text), split);
  }
  void refused(const std::string& text, const std::string& message) {
    EXPECT_THAT([&] { read(text); }, ThrowsMessage<DataError>(AllOf(HasSubstr("table.csv"), HasSubstr(message))))
        << text;
  }
  TemporaryDirectory directory_;
};

TEST_F(Csv, LabelsAndFeatures) {
  const auto source = read("a,b,label\n1,2,0\n-3.5,4e2,2\n");
  EXPECT_EQ(source->size(), 2);
  EXPECT_THAT(source->spec().input_shape, ElementsAre(2));
  EXPECT_EQ(source->spec().classes, 3);
  EXPECT_EQ(source->spec().target_size, 0);
  const Batch batch = whole(*source);
  EXPECT_THAT(batch.inputs, ElementsAre(1, 2, -3.5F, 400));
  EXPECT_THAT(batch.labels, ElementsAre(0, 2));
}

TEST_F(Csv, SplitColumnIsHonoured) {
  const std::string text = "x,split,y\n1,train,0\n2,test,1\n3,test,4\n4,train,1\n";
  const auto train = read(text);
  EXPECT_THAT(whole(*train).inputs, ElementsAre(1, 4));
  EXPECT_THAT(whole(*train).labels, ElementsAre(0, 1));
  EXPECT_EQ(train->spec().classes, 5) << "classes of both splits count";
  const auto test = read(text, Split::test);
  EXPECT_THAT(whole(*test).inputs, ElementsAre(2, 3));
  EXPECT_THAT(whole(*test).labels, ElementsAre(1, 4));
  EXPECT_NE(train->digest(), test->digest());
}

TEST_F(Csv, WithoutSplitColumnTheWholeFileServesBoth) {
  const std::string text = "x,y\n1,0\n2,1\n";
  EXPECT_EQ(read(text)->digest(), read(text, Split::test)->digest());
  EXPECT_EQ(read(text)->size(), 2);
}

TEST_F(Csv, TheTargetColumn) {
  struct Case {
    std::string header;
    float feature;  // the first one of the row 10,11,12
    float target;
  };
  for (const Case& c : {Case{"label,a,b", 11, 10}, Case{"a,Class,b", 10, 11}, Case{"target,a,b", 11, 10},
                        Case{"a,y,b", 10, 11}, Case{"x,y,label", 10, 12}, Case{"a,b,c", 10, 12}}) {
    const Batch batch = whole(*read(c.header + "\n10,11,12\n"));
    ASSERT_EQ(batch.labels.size(), 1U) << c.header;
    EXPECT_EQ(batch.labels[0], static_cast<std::int64_t>(c.target)) << c.header;
    EXPECT_EQ(batch.inputs.size(), 2U);
    EXPECT_EQ(batch.inputs[0], c.feature) << c.header;
  }
  const Batch last = whole(*read("a,b,split\n1,2,train\n"));
  EXPECT_THAT(last.inputs, ElementsAre(1));
  EXPECT_THAT(last.labels, ElementsAre(2));
  refused("label,class,a\n1,2,3\n", "line 1: the columns 'label' and 'class' both look like the target");
  refused("y,y_1,a\n1,2,3\n", "both look like the target");
}

TEST_F(Csv, RealTargets) {
  for (const char* const values : {"0.5", "-1", "65536", "1e-3"}) {
    const auto source = read(fmt::format("x,y\n1,0\n2,{}\n", values));
    EXPECT_EQ(source->spec().classes, 0) << values;
    EXPECT_EQ(source->spec().target_size, 1) << values;
    EXPECT_THAT(whole(*source).targets, ElementsAre(0, std::stof(values)));
    EXPECT_THAT(whole(*source).labels, IsEmpty());
  }
  EXPECT_EQ(read("x,y\n1,65535\n")->spec().classes, 65536);
  const auto several = read("target_a,x,target_b\n1,2,3\n4,5,6\n");
  EXPECT_EQ(several->spec().target_size, 2);
  EXPECT_THAT(whole(*several).targets, ElementsAre(1, 3, 4, 6));
  EXPECT_THAT(whole(*several).inputs, ElementsAre(2, 5));
  EXPECT_EQ(read("x,y_count\n1,2\n")->spec().target_size, 1) << "integers, but real-valued by name";
}

TEST_F(Csv, FormsOfTheSameTable) {
  const std::string plain = "a,b,y\n1,2,0\n-3.5,0.25,1\n";
  const std::string digest = read(plain)->digest();
  for (const std::string& text : {std::string("a,b,y\r\n1,2,0\r\n-3.5,0.25,1\r\n"), std::string("\xef\xbb\xbf") + plain,
                                  std::string("\"a\",\"b \"\"x\"\", too\",y\n \"1\" , 2,\t0\n\n-3.5,+.25,1.0"),
                                  std::string("a,b,y\n1e0,2.0,0\n  \n-35e-1,0.25,1\n\n\n"), test::gzip(plain)})
    EXPECT_EQ(read(text)->digest(), digest) << text;
}

TEST_F(Csv, BadFieldsAreNamedWithFileAndLine) {
  refused("x,y\n1,0\nnan,1\n", "line 3: column 'x' holds nan, which is not a finite number");
  refused("x,y\n1,0\n\n2,-inf\n", "line 4: column 'y' holds -inf, which is not a finite number");
  refused("x,y\n1e39,0\n", "line 2: column 'x' holds 1e39, which is not a finite number of single precision");
  refused("x,y\n1e999,0\n", "line 2: column 'x' holds 1e999, outside the range of numbers");
  refused("x,y\n,0\n", "line 2: column 'x' is empty");
  refused("x,y\n1,\n", "line 2: column 'y' is empty");
  refused("x,y\n1,cat\n", "line 2: column 'y' holds 'cat', which is not a number");
  for (const char* const field : {"1.5x", "0x10", "1 2", "--1", "+-1", "+", "1,5", "1;5", "1_0"})
    EXPECT_THROW(read(fmt::format("x,y\n{},0\n", field)), DataError) << field;
  refused(std::string("x,y\n1\0,0\n", 9), "column 'x' holds '1?', which is not a number");
  refused("x,y\n" + std::string(1000, 'z') + ",0\n", "holds '" + std::string(40, 'z') + "...', which is not");
  refused("x,y\n1\n", "line 2: there are 1 fields, but the header names 2 columns");
  refused("x,y\n1,0\n1,0,3\n", "line 3: there are 3 fields");
  refused("x,y\n\"1,0\n", "line 2: a quote is not closed");
  refused("x,y\n\"1\"2,0\n", "line 2: there is text between a closing quote and the next comma");
  refused("x,y,split\n1,0,train\n1,0,validation\n", "line 3: the split is 'validation', but must be train or test");
}

TEST_F(Csv, RowsOfTheOtherSplitAreCheckedToo) {
  refused("x,y,split\n1,0,train\noops,0,test\n", "line 3: column 'x' holds 'oops'");
}

TEST_F(Csv, FilesThatAreNoTable) {
  refused("", "is empty");
  refused("\n\n", "is empty");
  refused("x,y\n", "holds a header, but no rows");
  refused("x,y,split\n1,0,test\n", "holds no row whose split is train");
  refused("x\n1\n", "line 1: there must be at least one feature and one target column");
  refused("x,split\n1,train\n", "at least one feature and one target column");
  refused("target_a,target_b\n1,2\n", "every column is a target");
  refused("1,2,0\n3,4,1\n", "line 1: the first line holds numbers");
  refused(",x,y\n0,1,0\n", "line 1: column 1 has no name");
  refused("x,x,y\n1,2,0\n", "two columns are named 'x'");
  EXPECT_THAT([&] { read_csv(directory_.path() / "absent.csv", Split::train); },
              ThrowsMessage<DataError>(AllOf(HasSubstr("absent.csv"), HasSubstr("No such file"))));
  EXPECT_THAT([&] { read_csv(directory_.path(), Split::train); },
              ThrowsMessage<DataError>(HasSubstr("is not a regular file")));
  const auto pipe = directory_.path() / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_THAT([&] { read_csv(pipe, Split::train); }, ThrowsMessage<DataError>(HasSubstr("is not a regular file")));
}

TEST_F(Csv, TheSharedMoons) {
  const auto path = test::shared_data("moons.csv");
  if (path.empty()) GTEST_SKIP() << "CREDENCE_SHARED_DATA does not lead to moons.csv";
  // Read a second time by another road: streams and strtof.
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  ASSERT_EQ(line, "x1,x2,y,split");
  std::map<std::string, std::pair<std::vector<float>, std::vector<std::int64_t>>> expected;
  while (std::getline(file, line)) {
    std::istringstream fields(line);
    std::string x1, x2, y, split;
    std::getline(std::getline(std::getline(std::getline(fields, x1, ','), x2, ','), y, ','), split);
    auto& [inputs, labels] = expected[split];
    inputs.insert(inputs.end(), {std::stof(x1), std::stof(x2)});
    labels.push_back(std::stol(y));
  }
  for (const Split split : {Split::train, Split::test}) {
    const auto source = read_csv(path, split);
    EXPECT_EQ(source->size(), 500);
    EXPECT_EQ(source->spec().classes, 2);
    const Batch batch = whole(*source);
    EXPECT_EQ(batch.inputs, expected.at(std::string(name_of(split))).first);
    EXPECT_EQ(batch.labels, expected.at(std::string(name_of(split))).second);
  }
}

}  // namespace
}  // namespace credence
