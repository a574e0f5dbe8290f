// Weights and tokenizer by name.
#include <utility>

#include "services/engine/model.h"
#include "services/engine/tokenizer.h"
#include "services/rpc/logging.h"
#include "services/worker/worker_service.h"

namespace lola::worker {
namespace {

constexpr std::string_view kRandom = "random:";

absl::StatusOr<std::unique_ptr<engine::Model>> Load(const std::string& source,
                                                    const engine::LoadOptions& options) {
  if (!source.starts_with(kRandom)) return engine::Model::Load(source, options);
  auto config = engine::NamedGeometry(source.substr(kRandom.size()));
  if (!config.ok()) return config.status();
  return engine::Model::Random(*config, /*seed=*/1, options);
}

std::string NameOf(std::string source) {
  if (source.starts_with(kRandom)) return source;
  while (source.size() > 1 && source.back() == '/') source.pop_back();
  return source.substr(source.find_last_of('/') + 1);
}

}  // namespace

absl::StatusOr<NamedModel> LoadNamedModel(const std::string& source, const std::string& dtype,
                                          std::string_view layers) {
  auto parsed = engine::ParseWeightDtype(dtype);
  if (!parsed.ok()) return parsed.status();
  engine::LoadOptions options{*parsed, std::nullopt};
  if (!layers.empty()) {
    auto range = engine::ParseLayerRange(layers);
    if (!range.ok()) return range.status();
    options.layers = *range;
  }
  auto model = Load(source, options);
  if (!model.ok()) return model.status();
  if (!(*model)->whole()) {
    rpc::LogInfo(
        "a part of the model is here; the weights of other layers were read once, for the "
        "fingerprint, and not kept",
        {{"model", source},
         {"layers", (*model)->layers().ToString()},
         {"of", (*model)->geometry().layers},
         {"weight_bytes", (*model)->weight_bytes()},
         {"fingerprint", (*model)->fingerprint()}});
  }
  return NamedModel{NameOf(source), *std::move(model)};
}

absl::StatusOr<ServedModel> LoadServedModel(const std::string& source, const std::string& dtype,
                                            std::string_view layers) {
  auto named = LoadNamedModel(source, dtype, layers);
  if (!named.ok()) return named.status();
  std::shared_ptr<const engine::Tokenizer> tokenizer;
  if (source.starts_with(kRandom)) {
    tokenizer = engine::MakeByteTokenizer();
  } else {
    auto loaded = engine::LoadTokenizer(source);
    if (!loaded.ok()) return loaded.status();
    tokenizer = *std::move(loaded);
  }
  return ServedModel{std::move(named->name), std::move(named->model), std::move(tokenizer)};
}

}  // namespace lola::worker
