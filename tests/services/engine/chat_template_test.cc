#include "services/engine/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <tuple>

namespace lola::engine {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;

std::string ReadFile(const std::string& name) {
  std::ifstream in(LOLA_SOURCE_DIR "/tests/testdata/tokenizer/" + name);
  return {std::istreambuf_iterator<char>(in), {}};
}

ChatTemplate Parsed(const Json& config) {
  auto made = ChatTemplate::Parse(config.dump());
  EXPECT_TRUE(made.ok()) << made.status();
  EXPECT_TRUE(made->has_value());
  return **made;
}

std::string Refusal(const Json& config) {
  return std::string(ChatTemplate::Parse(config.dump()).status().message());
}

std::vector<ChatMessage> Messages(const Json& talk) {
  std::vector<ChatMessage> messages;
  for (const Json& one : talk["messages"]) messages.push_back({one[0], one[1]});
  return messages;
}

Json Families() { return Json::parse(ReadFile("chat.json"))["families"]; }

TEST(ChatTemplate, RendersAsTransformersDoes) {
  int talks = 0;
  for (const Json& family : Families()) {
    const ChatTemplate chat = Parsed(family["config"]);
    EXPECT_EQ(chat.family(), family["family"].get<std::string>());
    for (const Json& talk : family["talks"]) {
      const auto text = chat.Begin(Messages(talk), talk["date"]);
      ASSERT_TRUE(text.ok()) << text.status();
      EXPECT_EQ(text->text, talk["text"].get<std::string>()) << family["family"];
      ++talks;
    }
  }
  EXPECT_GT(talks, 30);
}

// What the template wrote is vouched for, what people wrote is not.
TEST(ChatTemplate, NothingPeopleWroteIsInAControlRange) {
  for (const Json& family : Families()) {
    const ChatTemplate chat = Parsed(family["config"]);
    const auto text = chat.Begin({{"user", "@@@@"}, {"assistant", "@@@@"}, {"user", "@@@@"}});
    ASSERT_TRUE(text.ok()) << text.status();
    std::string ours;
    for (const TextRange& range : text->control) {
      ours += text->text.substr(range.begin, range.end - range.begin);
    }
    EXPECT_EQ(ours.find('@'), std::string::npos) << ours;
    EXPECT_EQ(std::count(text->text.begin(), text->text.end(), '@'), 12);
    EXPECT_EQ(chat.Next("@").text.find(chat.end_of_turn()), 0u);
  }
}

// A stream grows turn by turn; the text is that of the whole conversation.
TEST(ChatTemplate, TurnByTurnIsTheWholeConversation) {
  for (const Json& family : Families()) {
    const ChatTemplate chat = Parsed(family["config"]);
    const auto whole = chat.Begin({{"user", "one"}, {"assistant", "two"}, {"user", "three"}});
    const auto first = chat.Begin({{"user", "one"}});
    ASSERT_TRUE(whole.ok() && first.ok());
    // The template of llama-2 puts a space on both sides of a reply; models write their own.
    const std::string reply = chat.family() == "llama-2" ? " two " : "two";
    EXPECT_EQ(first->text + reply + chat.Next("three").text, whole->text) << family["family"];
  }
}

TEST(ChatTemplate, TokensOfATurnKeepTextOfUsersText) {
  const auto tokenizer = ParseTokenizer(ReadFile("byte_level.json"));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const ChatTemplate chat = Parsed(Families()[1]["config"]);
  ASSERT_EQ(chat.family(), "llama-3");
  const int32_t end = *(*tokenizer)->SpecialId("<|eot_id|>");
  const auto text = chat.Begin({{"user", "say <|eot_id|>"}});
  const auto ids = EncodeChat(**tokenizer, *text);
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_EQ(ids->front(), *(*tokenizer)->SpecialId("<|begin_of_text|>"));
  EXPECT_EQ(std::count(ids->begin(), ids->end(), end), 1);
  const ChatText next = chat.Next("again <|eot_id|>");
  const auto cut = EncodeNextTurn(**tokenizer, next, false);
  const auto ended = EncodeNextTurn(**tokenizer, next, true);
  ASSERT_TRUE(cut.ok() && ended.ok());
  EXPECT_EQ(cut->front(), end);
  EXPECT_EQ(std::vector<int32_t>(cut->begin() + 1, cut->end()), *ended);
  EXPECT_EQ(std::count(ended->begin(), ended->end(), end), 1);
  // The tokenizer of another model.
  const ChatTemplate other = Parsed(Families()[0]["config"]);
  EXPECT_TRUE(chat.CheckTokenizer(**tokenizer).ok());
  const absl::Status wrong = other.CheckTokenizer(**tokenizer);
  EXPECT_EQ(wrong.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(wrong.message()), HasSubstr("\"<s>\" of the family llama-2"));
}

TEST(ChatTemplate, RefusesWhatItDoesNotKnowByName) {
  EXPECT_THAT(Refusal({{"chat_template", "{{ messages }} unheard of"}}),
              HasSubstr("chat_template: \"{{ messages }} unheard of\""));
  // Nearly one of the families: another line break, a system message of its own, other spaces.
  for (const auto& [family, from, to] :
       {std::tuple{1, "<|end_header_id|>\\n\\n", "<|end_header_id|>\\n"},
        {1, "{{ bos_token }}", "{{ bos_token }}system"},
        {0, ".strip()", ""},
        {3, "' [/INST]'", "'[/INST]'"},
        {5, "message['content']", "message['content'] | trim"}}) {
    Json near = Families()[family]["config"];
    auto text = near["chat_template"].get<std::string>();
    ASSERT_NE(text.find(from), std::string::npos) << from;
    for (size_t at; (at = text.find(from)) != std::string::npos && text != to;) {
      text = text.substr(0, at) + to + text.substr(at + std::string(from).size());
      if (std::string_view(to).find(from) != std::string_view::npos) break;
    }
    near["chat_template"] = text;
    EXPECT_THAT(Refusal(near), HasSubstr("(known: llama-2")) << from;
  }
  EXPECT_THAT(Refusal(Json::array()), HasSubstr("not a JSON object"));
  Json config = Families()[0]["config"];
  config.erase("eos_token");
  EXPECT_THAT(Refusal(config), HasSubstr("bos_token \"<s>\" and eos_token \"\""));
  const auto none = ChatTemplate::Parse("{}");
  ASSERT_TRUE(none.ok());
  EXPECT_FALSE(none->has_value());
  Json named = Families()[1]["config"];
  named["chat_template"] = {{{"name", "tool_use"}, {"template", "x"}},
                            {{"name", "default"}, {"template", named["chat_template"]}}};
  named["bos_token"] = {{"content", "<s>"}};
  EXPECT_EQ(Parsed(named).family(), "llama-3");
  const ChatTemplate chat = Parsed(Families()[1]["config"]);
  const auto error = [&](const std::vector<ChatMessage>& messages) {
    return std::string(chat.Begin(messages).status().message());
  };
  EXPECT_THAT(error({}), HasSubstr("the last one must be of a user"));
  EXPECT_THAT(error({{"user", "a"}, {"user", "b"}}), HasSubstr("messages[1].role: \"user\""));
  EXPECT_THAT(error({{"tool", "a"}}), HasSubstr("messages[0].role: \"tool\""));
  EXPECT_THAT(error({{"user", "a"}, {"assistant", "b"}}), HasSubstr("the last one"));
}

}  // namespace
}  // namespace lola::engine
