#include "absl/strings/str_cat.h"
#include "memory/store/store_impl.h"

namespace lola::store {
namespace {

class TokenReaderImpl : public TokenReader {
 public:
  explicit TokenReaderImpl(std::unique_ptr<LogCursor> cursor)
      : cursor_(std::move(cursor)), position_(cursor_->position()) {}

  absl::StatusOr<bool> Next(v1::TokenRun* run) override {
    run->Clear();
    run->set_position(position_);
    while (size_t(run->ids_size()) < memory::kTokenRunMax) {
      if (next_ == tokens_.size()) {
        auto tokens = cursor_->Next();
        if (!tokens.ok()) return tokens.status();
        tokens_ = *std::move(tokens);
        next_ = 0;
        if (tokens_.empty()) break;
      }
      const LoggedToken& token = tokens_[next_];
      const auto author = token.by_model ? v1::TOKEN_AUTHOR_MODEL : v1::TOKEN_AUTHOR_CLIENT;
      if (run->ids_size() > 0 && run->author() != author) break;
      run->set_author(author);
      run->add_ids(token.id);
      ++next_;
    }
    position_ += uint64_t(run->ids_size());
    return run->ids_size() > 0;
  }

 private:
  const std::unique_ptr<LogCursor> cursor_;
  uint64_t position_;
  std::vector<LoggedToken> tokens_;
  size_t next_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<TokenReader>> StoreImpl::ReadTokens(
    const v1::ReadTokensRequest& request) {
  auto stream = LockFinished(request.stream_id());
  if (!stream.ok()) return stream.status();
  const uint64_t committed = (*stream)->committed;
  const uint64_t to = request.to() == 0 ? committed : request.to();
  if (to > committed) {
    return absl::OutOfRangeError(absl::StrCat(
        "to: is ", to, ", stream ", memory::Quoted(request.stream_id()), " ends at ", committed));
  }
  if (request.from() > to) {
    return absl::OutOfRangeError(
        absl::StrCat("from: is ", request.from(), ", beyond the end ", to));
  }
  return std::make_unique<TokenReaderImpl>(
      std::make_unique<LogCursor>(*db_, (*stream)->record, request.from(), to));
}

}  // namespace lola::store
