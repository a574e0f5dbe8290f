// Geometry and settings as named values of a preface, so that a refusal can name the field and both
// values. Pure functions: any thread.
#ifndef LOLA_MEMORY_SNAPSHOT_IDENTITY_H_
#define LOLA_MEMORY_SNAPSHOT_IDENTITY_H_

#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "memory/snapshot/preface.h"
#include "memory/stream/settings.h"

namespace lola::memory {

std::vector<PrefaceField> GeometryFields(const ModelGeometry& geometry);
// Every setting that changes what a stream computes.
std::vector<PrefaceField> SettingsFields(const LolaSettings& settings);

// FAILED_PRECONDITION naming the first field that differs: its value in the blob and the expected
// one, in readable form. `what` is "geometry" or "settings".
absl::Status CompareFields(std::string_view what, const std::vector<PrefaceField>& blob,
                           const std::vector<PrefaceField>& expected);

}  // namespace lola::memory

#endif  // LOLA_MEMORY_SNAPSHOT_IDENTITY_H_
