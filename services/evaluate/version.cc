#include "services/evaluate/version.h"

#include "lola_build_version.h"

namespace lola::evaluate {

std::string BuildVersion() { return LOLA_BUILD_VERSION; }

}  // namespace lola::evaluate
