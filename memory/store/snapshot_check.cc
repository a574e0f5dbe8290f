#include "memory/store/snapshot_check.h"

#include <cstring>
#include <span>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "memory/snapshot/verify.h"

namespace lola::store {
namespace {

class SnapshotCheck : public BlobCheck {
 public:
  absl::Status Feed(std::string_view data) override {
    return verifier_.Feed(std::as_bytes(std::span(data.data(), data.size())));
  }

  absl::Status Finish(uint64_t position, std::string_view digest) override {
    if (absl::Status status = verifier_.Finish(); !status.ok()) return status;
    const memory::Preface& preface = *verifier_.preface();
    if (preface.position != position) {
      return absl::DataLossError(
          absl::StrCat("position: the call says ", position, ", the blob ", preface.position));
    }
    if (digest.size() != preface.digest.size() ||
        std::memcmp(digest.data(), preface.digest.data(), digest.size()) != 0) {
      return absl::DataLossError(absl::StrCat("digest: the call says ",
                                              absl::BytesToHexString(std::string(digest)),
                                              ", the blob ", memory::HashHex(preface.digest)));
    }
    return absl::OkStatus();
  }

 private:
  memory::BlobVerifier verifier_;
};

}  // namespace

std::unique_ptr<BlobCheck> NewSnapshotCheck() { return std::make_unique<SnapshotCheck>(); }

}  // namespace lola::store
