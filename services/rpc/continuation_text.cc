#include "services/rpc/continuation_text.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace lola::rpc {

std::string ContinuationText(const v1::RestoreReport& report) {
  if (report.continuation() != v1::RestoreReport::CONTINUATION_TOLERANCE) return "";
  return absl::StrCat("computed by ", absl::StrJoin(report.computed_by(), ", "), ", goes on with ",
                      report.instruction_class(),
                      ": from the same bytes, equal to a tolerance, not to the bit");
}

}  // namespace lola::rpc
