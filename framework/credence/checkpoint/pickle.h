#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace credence::checkpoints {

/// What a pickle describes. Nothing is called: a call stays what Python would call, with its arguments.
struct PickleValue {
  enum class Kind : std::uint8_t { none, integer, number, text, sequence, dictionary, global, call, persistent, other };
  Kind kind = Kind::none;
  std::int64_t integer = 0;  // truth values too
  double number = 0.0;
  std::string text;                 // of a global: "module.name"
  std::vector<PickleValue*> items;  // elements; of a call the global and the sequence of arguments; the persistent id
  std::vector<std::pair<PickleValue*, PickleValue*>> pairs;  // of a dictionary, or of a call that makes one
};

/// One pickle of those that torch.save writes (protocol 2; opcodes as in Python's pickletools), read without running
/// anything. Values live as long as this; they may contain each other, so whoever descends must count levels. DataError
/// names the file and the position.
class Pickle {
 public:
  /// Begins at `bytes[0]`; what follows its end is left alone.
  Pickle(const std::filesystem::path& file, std::span<const std::byte> bytes);
  const PickleValue& root() const { return *root_; }
  /// How many bytes it has.
  std::size_t length() const { return position_; }

 private:
  using Kind = PickleValue::Kind;
  [[noreturn]] void refuse(const std::string& why) const;
  template <class T>
  T take();
  std::string take_text(std::size_t bytes);
  std::string take_line();
  PickleValue* make(Kind kind);
  void push_integer(std::int64_t value);
  void push_text(std::string text);
  void push_long(std::size_t bytes);
  void push_tuple(std::size_t count);
  PickleValue* pop();
  PickleValue* top();
  std::vector<PickleValue*> pop_to_mark();
  void remember(std::uint32_t index);
  void recall(std::uint32_t index);
  void call();
  void set_items(const std::vector<PickleValue*>& values);
  void append(const std::vector<PickleValue*>& values);
  /// False at the end.
  bool step();
  bool step_number(std::uint8_t opcode);
  bool step_container(std::uint8_t opcode);

  std::filesystem::path file_;
  std::span<const std::byte> bytes_;
  std::size_t position_ = 0;
  std::deque<PickleValue> values_;
  std::vector<PickleValue*> stack_;
  std::vector<std::size_t> marks_;
  std::vector<PickleValue*> memo_;
  PickleValue* root_ = nullptr;
};

}  // namespace credence::checkpoints
