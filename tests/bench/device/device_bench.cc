// What the device backend costs, beside what the device can do at most, measured in the same run:
// ceilings first, then products, attention and chunk events by batch, whole decode steps, prefill
// and what of it is not LoLA's, snapshots beside decoding, and the price of batch invariance.
// Without a GPU it says so and exits with 77.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/bench/device/bench_world.h"

namespace lola::bench {
namespace {

constexpr char kUsage[] =
    R"(Usage: device_bench [--only products|ops|steps] [--geometry NAME] [--dtype NAME]
                    [--layers N] [--batches 1,8,64,full] [--markdown FILE] [--json FILE] [--smoke]

Times the CUDA backend beside the ceilings of the same run.

  --only       a part: matrix products, attention and chunk events, whole steps
  --geometry   llama-3.2-1b or llama-3.1-8b (default: both); random weights
  --dtype      bfloat16, float8 or int8 weights (default: all)
  --batches    streams of a decode step; "full" is as many as the memory holds beside the weights
  --layers     for trials: figures are of another model then
  --markdown   writes the table there
  --json       writes the figures there, for tests/gpu/report.py
  --smoke      everything once on the emulated device, smallest sizes: figures mean nothing
)";

BenchOptions Parse(int argc, char** argv) {
  BenchOptions options;
  options.batches = {1, 8, 64, kFullBatch};
  options.attention_batches = {1, 8, 32, 128, 512};
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--help" || flag == "-h") {
      std::fputs(kUsage, stdout);
      std::exit(0);
    }
    if (flag == "--smoke") {
      options.smoke = true;
      options.batches = {1, 3, kFullBatch};
      options.attention_batches = {1, 3};
      options.full_most = 5;
      options.repetitions = 1;
      continue;
    }
    if (i + 1 >= argc) Fail(absl::StrCat(flag, ": unknown, or its value is missing"));
    const std::string value = argv[++i];
    if (flag == "--only") {
      options.only = value;
    } else if (flag == "--geometry") {
      options.geometry = value;
    } else if (flag == "--dtype") {
      options.dtype = value;
    } else if (flag == "--markdown") {
      options.markdown = value;
    } else if (flag == "--json") {
      options.json = value;
    } else if (flag == "--layers") {
      if (!absl::SimpleAtoi(value, &options.layers)) Fail(absl::StrCat("--layers ", value));
    } else if (flag == "--batches") {
      options.batches.clear();
      for (const auto part : absl::StrSplit(value, ',')) {
        size_t batch = kFullBatch;
        if (part != "full" && (!absl::SimpleAtoi(part, &batch) || batch == 0)) {
          Fail(absl::StrCat("--batches ", value));
        }
        options.batches.push_back(batch);
      }
    } else {
      Fail(absl::StrCat(flag, ": unknown"));
    }
  }
  return options;
}

int Main(int argc, char** argv) {
  const BenchOptions options = Parse(argc, argv);
  std::shared_ptr<cuda::Device> device = OpenDevice(options, true);
  BenchReport report(device->info());
  const auto wanted = [&](const char* group) {
    return options.only.empty() || std::strstr(group, options.only.c_str()) != nullptr;
  };
  RunCeilings(options, device.get(), report);
  if (wanted("products")) RunProducts(options, device.get(), report);
  if (wanted("ops")) RunOps(options, device.get(), report);
  device.reset();
  if (wanted("steps")) RunSteps(options, report);
  if (!options.markdown.empty() && !report.WriteMarkdown(options.markdown)) {
    Fail(absl::StrCat("cannot write ", options.markdown));
  }
  if (!options.json.empty() && !report.WriteJson(options.json)) {
    Fail(absl::StrCat("cannot write ", options.json));
  }
  return 0;
}

}  // namespace
}  // namespace lola::bench

int main(int argc, char** argv) { return lola::bench::Main(argc, argv); }
