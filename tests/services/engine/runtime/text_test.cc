// What a client reads when its generation is cut and goes on elsewhere.
#include "tests/services/engine/runtime/undisturbed.h"

namespace lola::engine {
namespace {

// Wherever a generation is cut, the rest of its text fits to what was shown before: also where text
// was held back because it may begin a stop string, and inside a character.
TEST(Recovery, TextGoesOnExactlyWhereItWasCut) {
  auto store = std::make_shared<FakeStore>();
  Worker worker(store);
  auto session = worker.Open("s");
  worker.Append(session, 1, RandomText(kPrompt, 1), 0);
  worker.Generate(session, 2, kGenerated, kPrompt);
  ASSERT_TRUE(session.client->WaitDone(2));
  ASSERT_EQ(store->Tokens("s"), Undisturbed());
  for (const bool matches : {false, true}) {
    std::vector<std::string> stops = NearlyStops();
    if (matches) stops.resize(1), stops[0].resize(2);
    const std::vector<std::string> texts = UndisturbedTexts(stops);
    int held = 0;
    Worker second(store, SmallOptions(), "worker-b");
    for (size_t cut = 0; cut <= texts.size(); ++cut) {
      held += cut > 0 && cut < texts.size() && texts[cut - 1].empty();
      auto again = second.Open("s", /*takeover=*/true, kPrompt + cut, /*resume=*/true);
      second.engine->Generate(again.id, Stopping(1, stops));
      ASSERT_TRUE(again.client->WaitDone(1)) << cut;
      EXPECT_EQ(again.client->text(), Joined(texts, cut)) << cut;
      EXPECT_EQ(again.client->tokens().size(), texts.size() - cut);
      second.engine->Detach(again.id);
    }
    EXPECT_TRUE(matches || held > 10) << held;
  }
}

}  // namespace
}  // namespace lola::engine
