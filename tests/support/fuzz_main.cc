// Runs a fuzz target without libFuzzer: every seed file, then bounded random mutations of the seeds
// from a fixed random sequence. Usage: fuzz_x CORPUS_DIR [-runs=N]. Crashes are the failures.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using Bytes = std::vector<uint8_t>;

std::vector<Bytes> LoadSeeds(const std::string& folder) {
  std::vector<Bytes> seeds;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    std::ifstream in(entry.path(), std::ios::binary);
    seeds.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
  }
  seeds.emplace_back();
  return seeds;
}

void Mutate(std::mt19937_64& random, Bytes& bytes) {
  const uint64_t edits = 1 + random() % 8;
  for (uint64_t i = 0; i < edits; ++i) {
    const uint64_t where = bytes.empty() ? 0 : random() % bytes.size();
    switch (random() % 4) {
      case 0:
        if (!bytes.empty()) bytes[where] ^= uint8_t(1u << (random() % 8));
        break;
      case 1:
        if (!bytes.empty()) bytes[where] = uint8_t(random());
        break;
      case 2:
        bytes.insert(bytes.begin() + where, uint8_t(random()));
        break;
      default:
        if (!bytes.empty()) bytes.resize(where);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  uint64_t runs = 1000;
  std::string folder;
  for (int i = 1; i < argc; ++i) {
    if (std::strncmp(argv[i], "-runs=", 6) == 0) {
      runs = std::strtoull(argv[i] + 6, nullptr, 10);
    } else {
      folder = argv[i];
    }
  }
  const std::vector<Bytes> seeds = LoadSeeds(folder);
  for (const Bytes& seed : seeds) LLVMFuzzerTestOneInput(seed.data(), seed.size());
  std::mt19937_64 random(20260);
  for (uint64_t i = 0; i < runs; ++i) {
    Bytes bytes = seeds[random() % seeds.size()];
    Mutate(random, bytes);
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  }
  std::printf("%zu seeds, %llu mutations\n", seeds.size(), (unsigned long long)runs);
  return 0;
}
