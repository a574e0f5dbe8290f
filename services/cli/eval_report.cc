#include "services/cli/eval_report.h"

#include <cmath>
#include <cstdio>

#include "services/cli/output.h"
#include "services/evaluate/summary.h"
#include "services/evaluate/version.h"

namespace lola::cli {
namespace {

using Rows = std::vector<std::vector<std::string>>;

std::string Number(const char* format, double value) {
  char text[32];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

std::string Values(const evaluate::NamedValues& values) {
  std::string text;
  for (const auto& [name, value] : values) {
    if (value.empty()) continue;
    text += (text.empty() ? "" : " ") + name + "=" + value;
  }
  return text;
}

void AddTally(Rows& rows, const std::string& name, const evaluate::Tally& tally) {
  if (tally.asked == 0) return;
  const auto [low, high] = evaluate::WilsonInterval(tally.right, tally.asked);
  rows.push_back(
      {name, Grouped(tally.right) + " / " + Grouped(tally.asked),
       Percent(100.0 * static_cast<double>(tally.right) / static_cast<double>(tally.asked)),
       Percent(low) + " to " + Percent(high)});
}

std::string Tallies(const std::string& head, const std::map<uint64_t, evaluate::Tally>& tallies) {
  if (tallies.size() < 2) return "";
  Rows rows = {{head, "FOUND", "", "95 % INTERVAL"}};
  for (const auto& [from, tally] : tallies) AddTally(rows, Grouped(from), tally);
  return "\n" + Table(rows);
}

std::string Bits(const std::string& head, const std::map<uint64_t, evaluate::BitCount>& counts) {
  Rows rows = {{head, "TOKENS", "BITS/TOKEN", "95 % INTERVAL", "BITS/BYTE", "PERPLEXITY"}};
  for (const auto& [at, count] : counts) {
    const double bits = count.bits / static_cast<double>(count.tokens);
    std::string interval = "-";
    if (count.tokens > 1 && count.squares > 0) {
      const auto [low, high] = evaluate::MeanInterval(count);
      interval = Number("%.4f", low) + " to " + Number("%.4f", high);
    }
    rows.push_back(
        {Grouped(at), Grouped(count.tokens), Number("%.4f", bits), interval,
         count.bytes > 0 ? Number("%.4f", count.bits / static_cast<double>(count.bytes)) : "-",
         Number("%.3f", std::exp2(bits))});
  }
  return "\n" + Table(rows);
}

}  // namespace

std::string Percent(double value) { return Number("%.1f %%", value); }

std::string EvalReport(const evaluate::RunHeader& header,
                       const std::vector<evaluate::SampleResult>& results) {
  const evaluate::Summary s = evaluate::Summarise(results);
  const evaluate::RunSetup& setup = header.setup;
  const auto setting = [&setup](std::string_view wanted) {
    for (const auto& [name, value] : setup.settings) {
      if (name == wanted) return value;
    }
    return std::string();
  };
  const std::string budgets = setting("cache_pairs_per_layer");
  const std::string lambda = budgets.empty() ? setting("cache_pairs") : budgets;
  std::string text = "arguments  " + Values(header.arguments) + "\n" +  //
                     "texts      " + Values(header.facts) + "\n" +      //
                     "memory     eta " + setting("window") + ", lambda " + lambda + ", score " +
                     setting("score") + ", mixing " + setting("mixing") + "\n" + "settings   " +
                     Values(setup.settings) + "\n" +  //
                     "model      " + (setup.model.empty() ? "" : setup.model + ", ") +
                     setup.fingerprint + " " + setup.weight_dtype + " " + setup.instruction_class +
                     ", " + setup.engine + "\n" + "build      " + evaluate::BuildVersion() + "\n" +
                     "state      " + Grouped(setup.state_bytes) + " bytes of one stream\n";
  text += "samples    " + Grouped(s.samples) + "\n";
  if (s.questions > 0) {
    text += "score      " + Percent(s.score) + " (95 %: " + Percent(s.low) + " to " +
            Percent(s.high) + ") of " + Grouped(s.questions) + " questions; " + Grouped(s.found) +
            " of " + Grouped(s.references) + " values found\n";
    Rows rows = {{"DEPTH", "FOUND", "", "95 % INTERVAL"}};
    for (size_t i = 0; i < s.by_depth.size(); ++i) {
      AddTally(rows, std::to_string(10 * i) + " to " + std::to_string(10 * i + 10) + " %",
               s.by_depth[i]);
    }
    text += "\n" + Table(rows);
    text += Tallies("DISTANCE FROM", s.by_distance) + Tallies("POSITION FROM", s.by_position);
  }
  if (!s.updates.empty()) {
    text += "\nupdated values:";
    for (const auto& [which, count] : s.updates) text += " " + which + " " + Grouped(count);
    text += "\n";
  }
  if (!s.bits_by_position.empty()) {
    text += Bits("POSITION FROM", s.bits_by_position) + Bits("POSITION BELOW", s.bits_by_multiple);
  }
  return text;
}

}  // namespace lola::cli
