#include "credence/checkpoint/pickle.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "credence/base/errors.h"

namespace credence::checkpoints {
namespace {

// Some twenty for a tensor: enough for fifty thousand of them, and at most a hundred megabytes.
constexpr std::size_t kMostValues = std::size_t{1} << 20;

enum Opcode : std::uint8_t {
  kProtocol = 0x80,
  kStop = '.',
  kMark = '(',
  kPop = '0',
  kNone = 'N',
  kTrue = 0x88,
  kFalse = 0x89,
  kInteger4 = 'J',
  kInteger1 = 'K',
  kInteger2 = 'M',
  kLong1 = 0x8a,
  kFloat = 'G',
  kText4 = 'X',
  kOldText1 = 'U',
  kOldText4 = 'T',
  kGlobal = 'c',
  kReduce = 'R',
  kNewObject = 0x81,
  kBuild = 'b',
  kPersistent = 'Q',
  kEmptyDictionary = '}',
  kEmptyList = ']',
  kEmptyTuple = ')',
  kTuple = 't',
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kAppend = 'a',
  kAppends = 'e',
  kSetItem = 's',
  kSetItems = 'u',
  kPut1 = 'q',
  kPut4 = 'r',
  kGet1 = 'h',
  kGet4 = 'j'
};

}  // namespace

Pickle::Pickle(const std::filesystem::path& file, std::span<const std::byte> bytes) : file_(file), bytes_(bytes) {
  while (step()) {
  }
  root_ = pop();
}

void Pickle::refuse(const std::string& why) const {
  throw DataError(fmt::format("{}: byte {} of its pickle {}", file_.string(), position_, why));
}

template <class T>
T Pickle::take() {
  if (bytes_.size() - position_ < sizeof(T)) refuse("is its last, before its end");
  T value;
  std::memcpy(&value, bytes_.data() + position_, sizeof(T));
  position_ += sizeof(T);
  return value;
}

std::string Pickle::take_text(std::size_t bytes) {
  if (bytes_.size() - position_ < bytes) refuse("begins a text that is longer than what follows");
  std::string text(reinterpret_cast<const char*>(bytes_.data()) + position_, bytes);
  position_ += bytes;
  return text;
}

std::string Pickle::take_line() {
  const auto rest = bytes_.subspan(position_);
  const auto end = std::ranges::find(rest, std::byte{'\n'});
  if (end == rest.end()) refuse("begins a name without an end");
  std::string text = take_text(static_cast<std::size_t>(end - rest.begin()));
  ++position_;
  return text;
}

PickleValue* Pickle::make(Kind kind) {
  if (values_.size() == kMostValues) refuse(fmt::format("makes more than {} values", kMostValues));
  values_.emplace_back().kind = kind;
  stack_.push_back(&values_.back());
  return &values_.back();
}

void Pickle::push_integer(std::int64_t value) {
  make(Kind::integer)->integer = value;
}

void Pickle::push_text(std::string text) {
  make(Kind::text)->text = std::move(text);
}

/// Two's complement, the least significant byte first.
void Pickle::push_long(std::size_t bytes) {
  const std::string digits = take_text(bytes);
  if (bytes > sizeof(std::int64_t)) {
    make(Kind::other)->text = digits;
    return;
  }
  std::uint64_t value = !digits.empty() && (static_cast<unsigned char>(digits.back()) & 0x80U) != 0 ? ~0ULL : 0ULL;
  for (std::size_t i = bytes; i-- > 0;) value = value << 8 | static_cast<unsigned char>(digits[i]);
  push_integer(static_cast<std::int64_t>(value));
}

void Pickle::push_tuple(std::size_t count) {
  std::vector<PickleValue*> items(count);
  for (std::size_t i = count; i-- > 0;) items[i] = pop();
  make(Kind::sequence)->items = std::move(items);
}

PickleValue* Pickle::top() {
  if (stack_.empty() || (!marks_.empty() && stack_.size() <= marks_.back())) refuse("needs a value that is not there");
  return stack_.back();
}

PickleValue* Pickle::pop() {
  PickleValue* const value = top();
  stack_.pop_back();
  return value;
}

std::vector<PickleValue*> Pickle::pop_to_mark() {
  if (marks_.empty()) refuse("needs a mark that is not there");
  const auto begin = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
  std::vector<PickleValue*> values(begin, stack_.end());
  stack_.erase(begin, stack_.end());
  marks_.pop_back();
  return values;
}

void Pickle::remember(std::uint32_t index) {
  PickleValue* const value = top();
  if (index >= kMostValues) refuse(fmt::format("remembers more than {} values", kMostValues));
  if (index >= memo_.size()) memo_.resize(std::max<std::size_t>(index + 1, 2 * memo_.size()), nullptr);
  memo_[index] = value;
}

void Pickle::recall(std::uint32_t index) {
  if (index >= memo_.size() || memo_[index] == nullptr) refuse("asks for a value that was not kept");
  stack_.push_back(memo_[index]);
}

void Pickle::call() {
  PickleValue* const arguments = pop();
  PickleValue* const called = pop();
  PickleValue* const value = make(Kind::other);
  if (called->kind != Kind::global || arguments->kind != Kind::sequence) return;
  value->kind = Kind::call;
  value->items = {called, arguments};
}

void Pickle::set_items(const std::vector<PickleValue*>& values) {
  PickleValue* const target = top();
  if (values.size() % 2 != 0) refuse("gives a key without a value");
  for (std::size_t i = 0; i < values.size(); i += 2) target->pairs.emplace_back(values[i], values[i + 1]);
}

void Pickle::append(const std::vector<PickleValue*>& values) {
  PickleValue* const target = top();
  if (target->kind != Kind::sequence) return;  // a set, a deque: of no interest
  target->items.insert(target->items.end(), values.begin(), values.end());
}

bool Pickle::step() {
  const auto opcode = take<std::uint8_t>();
  switch (opcode) {
    case kStop:
      return false;
    case kProtocol:
      if (const auto version = take<std::uint8_t>(); version > 3) {
        refuse(fmt::format("asks for version {} of the pickle protocol, and 2 is what torch.save writes", version));
      }
      return true;
    case kMark:
      marks_.push_back(stack_.size());
      return true;
    case kPop:
      pop();
      return true;
    case kGlobal: {
      const std::string module = take_line();
      make(Kind::global)->text = module + "." + take_line();
      return true;
    }
    case kReduce:
    case kNewObject:
      call();
      return true;
    case kBuild:  // the state of an object: of no interest
      pop();
      top();
      return true;
    case kPersistent: {
      PickleValue* const id = pop();
      make(Kind::persistent)->items = {id};
      return true;
    }
    default:
      if (step_number(opcode) || step_container(opcode)) return true;
      --position_;
      refuse(fmt::format("is the opcode 0x{:02x}, which a state dict does not need", opcode));
  }
}

bool Pickle::step_number(std::uint8_t opcode) {
  switch (opcode) {
    case kNone:
      make(Kind::none);
      return true;
    case kTrue:
    case kFalse:
      push_integer(opcode == kTrue ? 1 : 0);
      return true;
    case kInteger4:
      push_integer(take<std::int32_t>());
      return true;
    case kInteger2:
      push_integer(take<std::uint16_t>());
      return true;
    case kInteger1:
      push_integer(take<std::uint8_t>());
      return true;
    case kLong1:
      push_long(take<std::uint8_t>());
      return true;
    case kFloat:
      make(Kind::number)->number = std::bit_cast<double>(__builtin_bswap64(take<std::uint64_t>()));
      return true;
    case kText4:
    case kOldText4:
      push_text(take_text(take<std::uint32_t>()));
      return true;
    case kOldText1:
      push_text(take_text(take<std::uint8_t>()));
      return true;
    default:
      return false;
  }
}

bool Pickle::step_container(std::uint8_t opcode) {
  switch (opcode) {
    case kEmptyDictionary:
      make(Kind::dictionary);
      return true;
    case kEmptyList:
    case kEmptyTuple:
      make(Kind::sequence);
      return true;
    case kTuple: {
      std::vector<PickleValue*> items = pop_to_mark();
      make(Kind::sequence)->items = std::move(items);
      return true;
    }
    case kTuple1:
    case kTuple2:
    case kTuple3:
      push_tuple(opcode - kTuple1 + 1U);
      return true;
    case kAppend: {
      PickleValue* const value = pop();
      append({value});
      return true;
    }
    case kAppends:
      append(pop_to_mark());
      return true;
    case kSetItem: {
      PickleValue* const value = pop();
      PickleValue* const key = pop();
      set_items({key, value});
      return true;
    }
    case kSetItems:
      set_items(pop_to_mark());
      return true;
    case kPut1:
      remember(take<std::uint8_t>());
      return true;
    case kPut4:
      remember(take<std::uint32_t>());
      return true;
    case kGet1:
      recall(take<std::uint8_t>());
      return true;
    case kGet4:
      recall(take<std::uint32_t>());
      return true;
    default:
      return false;
  }
}

}  // namespace credence::checkpoints
