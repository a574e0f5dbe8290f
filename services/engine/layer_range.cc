#include "services/engine/layer_range.h"

#include <charconv>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "memory/text.h"

namespace lola::engine {
namespace {

bool ReadNumber(std::string_view text, uint32_t* number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *number);
  return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

std::string LayerRange::ToString() const {
  return count() == 1 ? absl::StrCat(first) : absl::StrCat(first, "-", end - 1);
}

absl::StatusOr<LayerRange> ParseLayerRange(std::string_view text) {
  const size_t dash = text.find('-');
  uint32_t first = 0, last = 0;
  bool good = ReadNumber(text.substr(0, dash), &first);
  last = first;
  if (good && dash != std::string_view::npos) good = ReadNumber(text.substr(dash + 1), &last);
  if (!good || last < first || last == UINT32_MAX) {
    return absl::InvalidArgumentError(
        absl::StrCat("layers: \"", ToAbsl(text), "\", must be a range like 4-7, or one number"));
  }
  return LayerRange{first, last + 1};
}

absl::Status CheckLayerRange(const LayerRange& range, uint32_t layers) {
  if (range.first < range.end && range.end <= layers) return absl::OkStatus();
  if (range.first >= range.end) {
    return absl::InvalidArgumentError(
        absl::StrCat("layers: ", range.first, " up to ", range.end, " are none"));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("layers: ", range.ToString(), ", the model has ", layers, ": 0-", layers - 1));
}

memory::ModelGeometry CutGeometry(memory::ModelGeometry geometry, const LayerRange& range) {
  LOLA_CHECK(CheckLayerRange(range, geometry.layers).ok());
  geometry.layers = range.count();
  return geometry;
}

memory::LolaSettings CutSettings(memory::LolaSettings settings, const LayerRange& range) {
  std::vector<uint32_t>& budgets = settings.cache_pairs_per_layer;
  if (budgets.empty()) return settings;
  LOLA_CHECK_LE(range.end, budgets.size());
  budgets = std::vector<uint32_t>(budgets.begin() + range.first, budgets.begin() + range.end);
  return settings;
}

memory::StateLayout CutLayout(const memory::StateLayout& whole, const LayerRange& range) {
  memory::StateLayout cut(CutGeometry(whole.geometry(), range),
                          CutSettings(whole.settings(), range));
  LOLA_CHECK_EQ(cut.stride_bytes(), memory::kPageBytes + PieceOf(whole, range).bytes);
  return cut;
}

RecordPiece PieceOf(const memory::StateLayout& whole, const LayerRange& range) {
  const size_t begin = whole.layer(range.first).begin;
  return {begin, whole.layer(range.end - 1).end - begin};
}

}  // namespace lola::engine
