// Which build answered: for results that must be traced to their code. Any thread.
#ifndef LOLA_SERVICES_EVALUATE_VERSION_H_
#define LOLA_SERVICES_EVALUATE_VERSION_H_

#include <string>

namespace lola::evaluate {

// "0.1.0 (1a2b3c4d5e6f)", "... changed" when the sources differed from that commit when they were
// built; the version alone when they were built outside a repository.
std::string BuildVersion();

}  // namespace lola::evaluate

#endif  // LOLA_SERVICES_EVALUATE_VERSION_H_
