// Tokenizes what a script hands it, for comparisons with other tokenizers (tools/tokenizer_check).
//   engine_tokenize TOKENIZER.json [--control] < texts     one JSON string per line in,
//                                                          one JSON array of ids per line out
//   engine_tokenize TOKENIZER.json --decode < ids          the other way round
//   engine_tokenize TOKENIZER.json --time FILE             encodes a file, prints megabytes/s
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "services/engine/tokenizer.h"

namespace {

using Json = nlohmann::json;
using Clock = std::chrono::steady_clock;

std::string Read(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

int Time(const lola::engine::Tokenizer& tokenizer, const std::string& path) {
  const std::string text = Read(path);
  double best = 1e9;
  size_t tokens = 0;
  for (int run = 0; run < 3; ++run) {
    const auto start = Clock::now();
    const auto ids = tokenizer.Encode(text);
    best = std::min(best, SecondsSince(start));
    tokens = ids.ok() ? ids->size() : 0;
  }
  std::printf("%.2f MB/s, %zu tokens\n", static_cast<double>(text.size()) / best / 1e6, tokens);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  const std::string mode = argc > 2 ? argv[2] : "";
  const auto start = Clock::now();
  const auto tokenizer = lola::engine::ParseTokenizer(Read(argv[1]));
  if (!tokenizer.ok()) {
    std::fprintf(stderr, "%s: %s\n", argv[1], tokenizer.status().ToString().c_str());
    return 1;
  }
  std::fprintf(stderr, "%s, %zu ids, loaded in %.3f s\n", std::string((*tokenizer)->kind()).c_str(),
               (*tokenizer)->size(), SecondsSince(start));
  if (mode == "--time" && argc > 3) return Time(**tokenizer, argv[3]);
  for (std::string line; std::getline(std::cin, line);) {
    const Json value = Json::parse(line);
    if (mode == "--decode") {
      const std::string text =
          lola::engine::DecodeAll(**tokenizer, value.get<std::vector<int32_t>>());
      std::printf("%s\n", Json(text).dump().c_str());
      continue;
    }
    const auto text = value.get<std::string>();
    lola::engine::EncodeOptions options;
    if (mode == "--control") options.control = {{0, text.size()}};
    const auto ids = (*tokenizer)->Encode(text, options);
    if (!ids.ok()) {
      std::fprintf(stderr, "%s\n", ids.status().ToString().c_str());
      return 1;
    }
    std::printf("%s\n", Json(*ids).dump().c_str());
  }
  return 0;
}
