#include "credence/base/context.h"

#include <algorithm>
#include <utility>

namespace credence {

namespace {

std::string the_phase;
std::int64_t the_step = -1;

template <class Kind>
class Relayed final : public Kind, public Origin {
 public:
  Relayed(const Kind& error, Origin origin) : Kind(error), Origin(std::move(origin)) {}
};

}  // namespace

void set_phase(std::string_view phase) {
  the_phase = phase;
  the_step = -1;
}

void set_step(std::int64_t step) {
  the_step = step;
}

std::string with_context(const std::string& text) {
  if (the_phase.empty()) return text;
  const std::size_t end = std::min(text.find('\n'), text.size());
  const std::string step = the_step < 0 ? std::string() : fmt::format(", step {}", the_step);
  return fmt::format("{} (in {}{}){}", text.substr(0, end), the_phase, step, text.substr(end));
}

void throw_error_of(const Origin& origin, ExitCode code, const std::string& message) {
  const auto relay = [&](const auto& error) { throw Relayed(error, origin); };
  try {
    throw_error(code, message);
  } catch (const UserError& error) {
    relay(error);
  } catch (const DataError& error) {
    relay(error);
  } catch (const DirectoryInUseError& error) {
    relay(error);
  } catch (const StorageError& error) {
    relay(error);
  } catch (const CommunicationError& error) {
    relay(error);
  } catch (const NumericalError& error) {
    relay(error);
  } catch (const Error& error) {
    relay(error);
  }
  throw InternalError("an error of a kind that cannot be relayed");
}

const Origin* origin_of(const Error& error) {
  return dynamic_cast<const Origin*>(&error);
}

}  // namespace credence
