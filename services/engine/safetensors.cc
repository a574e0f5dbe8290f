#include "services/engine/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <limits>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/core/check.h"
#include "memory/text.h"
#include "services/engine/json_reader.h"

namespace lola::engine {
namespace {

constexpr size_t kDimensionsMax = 8;
constexpr size_t kIndexBytesMax = 64 << 20;
static_assert(std::endian::native == std::endian::little, "tensor data is little-endian");

std::optional<uint64_t> BytesPerElement(std::string_view dtype) {
  if (dtype == "F64" || dtype == "I64" || dtype == "U64") return 8;
  if (dtype == "F32" || dtype == "I32" || dtype == "U32") return 4;
  if (dtype == "F16" || dtype == "BF16" || dtype == "I16" || dtype == "U16") return 2;
  if (dtype == "I8" || dtype == "U8" || dtype == "BOOL") return 1;
  if (dtype == "F8_E4M3" || dtype == "F8_E5M2") return 1;
  return std::nullopt;
}

float HalfToFloat(uint16_t half) {
  const uint32_t sign = uint32_t{half & 0x8000u} << 16;
  const uint32_t exponent = (half >> 10) & 0x1f;
  const uint32_t mantissa = half & 0x3ff;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0) {
    return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  }
  const float value = static_cast<float>(mantissa) * 0x1p-24f;
  return sign != 0 ? -value : value;
}

// Reads one header entry. `data_size` is the size of the data section.
absl::StatusOr<TensorView> ParseEntry(const std::string& where, const Json& entry,
                                      std::span<const std::byte> data) {
  if (!entry.is_object()) return absl::DataLossError(absl::StrCat(where, ": not an object"));
  const auto dtype = entry.find("dtype");
  const auto shape = entry.find("shape");
  const auto offsets = entry.find("data_offsets");
  if (dtype == entry.end() || !dtype->is_string()) {
    return absl::DataLossError(absl::StrCat(where, ".dtype: missing or not a string"));
  }
  if (shape == entry.end() || !shape->is_array() || shape->size() > kDimensionsMax) {
    return absl::DataLossError(
        absl::StrCat(where, ".shape: missing or not an array of at most ", kDimensionsMax));
  }
  if (offsets == entry.end() || !offsets->is_array() || offsets->size() != 2 ||
      !(*offsets)[0].is_number_unsigned() || !(*offsets)[1].is_number_unsigned()) {
    return absl::DataLossError(
        absl::StrCat(where, ".data_offsets: missing or not two unsigned numbers"));
  }
  TensorView view;
  view.dtype = dtype->get<std::string>();
  const std::optional<uint64_t> width = BytesPerElement(view.dtype);
  if (!width) return absl::UnimplementedError(absl::StrCat(where, ".dtype: ", view.dtype));
  uint64_t bytes = *width;
  for (const Json& extent : *shape) {
    if (!extent.is_number_unsigned()) {
      return absl::DataLossError(absl::StrCat(where, ".shape: ", extent.dump()));
    }
    view.shape.push_back(extent.get<uint64_t>());
    if (__builtin_mul_overflow(bytes, view.shape.back(), &bytes)) {
      return absl::DataLossError(absl::StrCat(where, ".shape: ", shape->dump(), " overflows"));
    }
  }
  const uint64_t begin = (*offsets)[0].get<uint64_t>();
  const uint64_t end = (*offsets)[1].get<uint64_t>();
  if (begin > end || end > data.size()) {
    return absl::DataLossError(absl::StrCat(where, ".data_offsets: [", begin, ", ", end,
                                            "] in a data section of ", data.size(), " bytes"));
  }
  if (end - begin != bytes) {
    return absl::DataLossError(absl::StrCat(where, ": shape and dtype need ", bytes,
                                            " bytes, data_offsets hold ", end - begin));
  }
  view.data = data.subspan(begin, bytes);
  return view;
}

// Ranges must cover the data section without overlap or hole.
absl::Status CheckCoverage(const TensorMap& tensors, std::span<const std::byte> data,
                           std::string_view name) {
  std::vector<std::pair<size_t, const TensorMap::value_type*>> ranges;
  for (const auto& entry : tensors) {
    ranges.emplace_back(entry.second.data.data() - data.data(), &entry);
  }
  std::sort(ranges.begin(), ranges.end(), [](const auto& a, const auto& b) {
    return std::pair(a.first, a.second->second.data.size()) <
           std::pair(b.first, b.second->second.data.size());
  });
  size_t reached = 0;
  for (const auto& [begin, entry] : ranges) {
    if (begin != reached) {
      return absl::DataLossError(
          absl::StrCat(ToAbsl(name), ": tensor ", entry->first, " begins at ", begin,
                       begin < reached ? ", inside" : ", after a hole from", " byte ", reached));
    }
    reached += entry->second.data.size();
  }
  if (reached != data.size()) {
    return absl::DataLossError(absl::StrCat(ToAbsl(name), ": data section has ", data.size(),
                                            " bytes, tensors cover ", reached));
  }
  return absl::OkStatus();
}

}  // namespace

uint64_t TensorView::elements() const {
  uint64_t count = 1;
  for (const uint64_t extent : shape) count *= extent;
  return count;
}

absl::StatusOr<TensorMap> ParseSafetensors(std::span<const std::byte> file, std::string_view name) {
  uint64_t header_size = 0;
  if (file.size() < sizeof(header_size)) {
    return absl::DataLossError(
        absl::StrCat(ToAbsl(name), ": ", file.size(), " bytes, too short for a header length"));
  }
  std::memcpy(&header_size, file.data(), sizeof(header_size));
  const std::span<const std::byte> rest = file.subspan(sizeof(header_size));
  if (header_size > kSafetensorsHeaderBytesMax || header_size > rest.size()) {
    return absl::DataLossError(absl::StrCat(ToAbsl(name), ": header length ", header_size,
                                            " in a file of ", file.size(), " bytes (limit ",
                                            kSafetensorsHeaderBytesMax, ")"));
  }
  const char* text = reinterpret_cast<const char*>(rest.data());
  const absl::StatusOr<Json> header = ParseJsonObject(std::string_view(text, header_size));
  if (!header.ok()) {
    return absl::DataLossError(
        absl::StrCat(ToAbsl(name), ": header is ", header.status().message()));
  }
  const std::span<const std::byte> data = rest.subspan(header_size);
  TensorMap tensors;
  for (const auto& [key, entry] : header->items()) {
    if (key == "__metadata__") continue;
    absl::StatusOr<TensorView> view =
        ParseEntry(absl::StrCat(ToAbsl(name), ": tensor ", key), entry, data);
    if (!view.ok()) return view.status();
    tensors.emplace(key, *std::move(view));
  }
  const absl::Status covered = CheckCoverage(tensors, data, name);
  if (!covered.ok()) return covered;
  return tensors;
}

absl::Status CopyToFloat(std::string_view name, const TensorView& tensor, uint64_t first,
                         std::span<float> out) {
  LOLA_CHECK(first <= tensor.elements() && out.size() <= tensor.elements() - first)
      << first << " + " << out.size() << " of " << tensor.elements();
  if (tensor.dtype == "F32") {
    std::memcpy(out.data(), tensor.data.data() + first * sizeof(float), out.size_bytes());
    return absl::OkStatus();
  }
  const bool brain = tensor.dtype == "BF16";
  if (!brain && tensor.dtype != "F16") {
    return absl::UnimplementedError(absl::StrCat("tensor ", ToAbsl(name), ".dtype: ", tensor.dtype,
                                                 " (known: F32, BF16, F16)"));
  }
  const std::byte* data = tensor.data.data() + first * sizeof(uint16_t);
  for (uint64_t i = 0; i < out.size(); ++i) {
    uint16_t bits = 0;
    std::memcpy(&bits, data + 2 * i, sizeof(bits));
    out[i] = brain ? std::bit_cast<float>(uint32_t{bits} << 16) : HalfToFloat(bits);
  }
  return absl::OkStatus();
}

absl::Status TensorSet::AddFile(const std::string& path) {
  absl::StatusOr<MappedFile> file = MappedFile::Open(path);
  if (!file.ok()) return file.status();
  absl::StatusOr<TensorMap> tensors = ParseSafetensors(file->bytes(), path);
  if (!tensors.ok()) return tensors.status();
  for (auto& [name, view] : *tensors) {
    if (!tensors_.emplace(name, std::move(view)).second) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": tensor ", name, " stands in another file too"));
    }
  }
  files_.push_back(*std::move(file));
  return absl::OkStatus();
}

absl::StatusOr<TensorSet> TensorSet::Open(const std::string& model_dir) {
  TensorSet set;
  const std::string single = absl::StrCat(model_dir, "/model.safetensors");
  const std::string index_path = absl::StrCat(model_dir, "/model.safetensors.index.json");
  std::error_code ignored;
  if (!std::filesystem::exists(index_path, ignored)) {
    if (!std::filesystem::exists(single, ignored) &&
        std::filesystem::exists(absl::StrCat(model_dir, "/pytorch_model.bin"), ignored)) {
      return absl::UnimplementedError(
          absl::StrCat(model_dir, ": weights: pytorch_model.bin (known: model.safetensors)"));
    }
    const absl::Status added = set.AddFile(single);
    if (!added.ok()) return added;
    return set;
  }
  const absl::StatusOr<std::string> text = ReadTextFile(index_path, kIndexBytesMax);
  if (!text.ok()) return text.status();
  const absl::StatusOr<Json> index = ParseJsonObject(*text);
  if (!index.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(index_path, ": ", index.status().message()));
  }
  const auto weight_map = index->find("weight_map");
  if (weight_map == index->end() || !weight_map->is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(index_path, ": weight_map: missing"));
  }
  std::set<std::string> names;
  for (const auto& [tensor, file] : weight_map->items()) {
    if (!file.is_string()) {
      return absl::InvalidArgumentError(
          absl::StrCat(index_path, ": weight_map.", tensor, ": ", file.dump()));
    }
    names.insert(file.get<std::string>());
  }
  for (const std::string& name : names) {
    if (name.find('/') != std::string::npos || !name.ends_with(".safetensors")) {
      return absl::InvalidArgumentError(
          absl::StrCat(index_path, ": weight_map names the file ", name));
    }
    const absl::Status added = set.AddFile(absl::StrCat(model_dir, "/", name));
    if (!added.ok()) return added;
  }
  for (const auto& [tensor, file] : weight_map->items()) {
    if (set.tensors_.find(tensor) == set.tensors_.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat(index_path, ": weight_map.", tensor, ": not in ", file.get<std::string>()));
    }
  }
  return set;
}

absl::StatusOr<const TensorView*> TensorSet::Find(std::string_view name,
                                                  std::span<const uint64_t> shape) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    return absl::NotFoundError(absl::StrCat("tensor ", ToAbsl(name), ": not in the model files"));
  }
  const std::vector<uint64_t>& is = found->second.shape;
  if (!std::equal(is.begin(), is.end(), shape.begin(), shape.end())) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", ToAbsl(name), ".shape: [",
                                                   absl::StrJoin(is, ", "), "], expected [",
                                                   absl::StrJoin(shape, ", "), "]"));
  }
  return &found->second;
}

}  // namespace lola::engine
