#include "agreement.h"

#include <fmt/format.h>

#include "credence/base/errors.h"
#include "credence/base/log.h"

namespace credence {

void require_same_everywhere(const std::string& what, const std::string& content, Communicator& control) {
  const auto contents = control.gather_texts(content);
  const auto hosts = control.gather_texts(host_name());
  for (std::size_t rank = 1; rank < contents.size(); ++rank) {
    if (contents[rank] == contents[0]) continue;
    throw DataError(
        fmt::format("{} is not the same everywhere: rank {} on {} reads {}, and rank 0 on {} reads {}; give every rank "
                    "the same",
                    what, rank, hosts[rank], contents[rank], hosts[0], contents[0]));
  }
}

std::string describe_content(const DataSource& source) {
  return fmt::format("{} examples with digest {}", source.size(), source.digest());
}

void require_same_data(const DataSource& source, const std::string& spec, Communicator& control) {
  require_same_everywhere(spec, describe_content(source), control);
}

}  // namespace credence
