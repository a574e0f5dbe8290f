// What loading costs beside the packed weights, from one file and from shards. The files are
// sparse: zeros that take no disk, and pages like any other once they are read.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "services/engine/config.h"
#include "services/engine/weights.h"

namespace lola::engine {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

constexpr uint64_t kHidden = 768, kFfn = 3072, kLayers = 6, kVocab = 16384;
// Work space: 1 << 20 values in float32, their pages of the files, what the allocator keeps.
constexpr uint64_t kOverheadBytes = 24 << 20;

using Shapes = std::vector<std::pair<std::string, std::vector<uint64_t>>>;

Shapes AllTensors() {
  Shapes shapes = {{"model.embed_tokens.weight", {kVocab, kHidden}},
                   {"lm_head.weight", {kVocab, kHidden}},
                   {"model.norm.weight", {kHidden}}};
  for (uint64_t i = 0; i < kLayers; ++i) {
    const std::string base = "model.layers." + std::to_string(i) + ".";
    for (const char* name : {"q_proj", "k_proj", "v_proj", "o_proj"}) {
      shapes.push_back({base + "self_attn." + name + ".weight", {kHidden, kHidden}});
    }
    shapes.push_back({base + "mlp.gate_proj.weight", {kFfn, kHidden}});
    shapes.push_back({base + "mlp.up_proj.weight", {kFfn, kHidden}});
    shapes.push_back({base + "mlp.down_proj.weight", {kHidden, kFfn}});
    shapes.push_back({base + "input_layernorm.weight", {kHidden}});
    shapes.push_back({base + "post_attention_layernorm.weight", {kHidden}});
  }
  return shapes;
}

// Bytes of data.
uint64_t WriteZeros(const fs::path& path, std::span<const Shapes::value_type> shapes) {
  Json header = Json::object();
  uint64_t at = 0;
  for (const auto& [name, shape] : shapes) {
    uint64_t bytes = 2;
    for (const uint64_t extent : shape) bytes *= extent;
    header[name] = {{"dtype", "BF16"}, {"shape", shape}, {"data_offsets", {at, at + bytes}}};
    at += bytes;
  }
  const std::string text = header.dump();
  const uint64_t size = text.size();
  std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(&size), 8) << text;
  fs::resize_file(path, 8 + size + at);
  return at;
}

struct Written {
  fs::path folder;
  uint64_t file_bytes = 0;
};

Written WriteModel(const std::string& name, size_t files) {
  Written out{fs::path(::testing::TempDir()) / name};
  fs::remove_all(out.folder);
  fs::create_directories(out.folder);
  std::ofstream(out.folder / "config.json") << Json{{"model_type", "llama"},
                                                    {"hidden_size", kHidden},
                                                    {"intermediate_size", kFfn},
                                                    {"num_hidden_layers", kLayers},
                                                    {"num_attention_heads", 12},
                                                    {"num_key_value_heads", 12},
                                                    {"vocab_size", kVocab},
                                                    {"rms_norm_eps", 1e-5},
                                                    {"max_position_embeddings", 1024},
                                                    {"tie_word_embeddings", false}};
  const Shapes shapes = AllTensors();
  Json index;
  for (size_t i = 0; i < files; ++i) {
    const std::string file =
        files == 1 ? "model.safetensors" : "part-" + std::to_string(i) + ".safetensors";
    const size_t begin = shapes.size() * i / files, end = shapes.size() * (i + 1) / files;
    const auto part = std::span(shapes).subspan(begin, end - begin);
    out.file_bytes += WriteZeros(out.folder / file, part);
    for (const auto& tensor : part) index["weight_map"][tensor.first] = file;
  }
  if (files > 1) std::ofstream(out.folder / "model.safetensors.index.json") << index;
  return out;
}

uint64_t ResidentNow() {
  std::ifstream status("/proc/self/statm");
  uint64_t size = 0, resident = 0;
  status >> size >> resident;
  return resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

// Loads in a process of its own, whose highest resident memory the system tells.
uint64_t PeakOfLoading(const Written& model, const ModelConfig& config, kernels::Dtype dtype) {
  const pid_t child = fork();
  if (child == 0) _exit(LoadWeights(model.folder, config, dtype).ok() ? 0 : 1);
  int status = 0;
  rusage usage{};
  EXPECT_EQ(wait4(child, &status, 0, &usage), child);
  EXPECT_EQ(status, 0) << "loads";
  return static_cast<uint64_t>(usage.ru_maxrss) << 10;
}

TEST(LoadMemory, IsThePackedWeightsAndALittle) {
  for (const size_t files : {size_t{1}, size_t{5}}) {
    const Written model = WriteModel("load_memory_" + std::to_string(files), files);
    const auto config = LoadModelConfig(model.folder);
    ASSERT_TRUE(config.ok()) << config.status();
    for (const kernels::Dtype dtype : {kernels::Dtype::kBFloat16, kernels::Dtype::kInt8}) {
      const uint64_t packed = SizeOfWeights(*config, dtype).bytes;
      ASSERT_GT(model.file_bytes, 2 * kOverheadBytes) << "or the files would not show";
      const uint64_t before = ResidentNow();
      const uint64_t peak = PeakOfLoading(model, *config, dtype);
      EXPECT_GT(peak, packed) << "measured something";
      EXPECT_LT(peak, before + packed + kOverheadBytes)
          << files << " file(s), " << kernels::DtypeName(dtype) << ": " << peak - before
          << " bytes for " << packed << " of packed weights";
      RecordProperty(std::string(kernels::DtypeName(dtype)) + "_" + std::to_string(files),
                     std::to_string(peak - before - std::min(peak - before, packed)));
    }
    fs::remove_all(model.folder);
  }
}

}  // namespace
}  // namespace lola::engine
