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
  EXPECT_GT(talks, 70);
}

// What the template wrote is vouched for, what people wrote is not.
TEST(ChatTemplate, NothingPeopleWroteIsInAControlRange) {
  for (const Json& family : Families()) {
    const ChatTemplate chat = Parsed(family["config"]);
    const auto text =
        chat.Begin({{"user", "@@@@"}, {"assistant", "@@@@"}, {"user", "@@@@"}}, "2026-11-21");
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

// Messages come as people typed them; what is no UTF-8 is refused later, by the tokenizer.
TEST(ChatTemplate, TrimsTextThatIsNoUtf8) {
  for (const Json& family : Families()) {
    const ChatTemplate chat = Parsed(family["config"]);
    const std::pair<std::string, std::string> texts[] = {{"\xE3\x80", "\xE3\x80"},
                                                         {" a\xE2", "a\xE2"},
                                                         {"\xE2\x80\x80\xF0 ", "\xF0"},
                                                         {"\x80 \x85", "\x80 \x85"}};
    for (const auto& [typed, kept] : texts) {
      const auto text = chat.Begin({{"user", typed}}, "2026-11-21");
      ASSERT_TRUE(text.ok()) << text.status();
      EXPECT_THAT(text->text, HasSubstr(kept));
      EXPECT_THAT(chat.Next(typed).text, HasSubstr(kept));
    }
  }
}

// A stream grows turn by turn; the text is that of the whole conversation.
TEST(ChatTemplate, TurnByTurnIsTheWholeConversation) {
  for (const Json& family : Families()) {
    const ChatTemplate chat = Parsed(family["config"]);
    const std::string date = "2026-11-21";
    const auto whole = chat.Begin({{"user", "one"}, {"assistant", "two"}, {"user", "three"}}, date);
    const auto first = chat.Begin({{"user", "one"}}, date);
    ASSERT_TRUE(whole.ok() && first.ok());
    // Templates put spaces around a reply that models write themselves.
    const bool spaced = whole->text.find(" two") != std::string::npos;
    const std::string reply = chat.family() == "llama-2" ? " two " : spaced ? " two" : "two";
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

Json ConfigOf(const std::string& family) {
  for (const Json& one : Families()) {
    // The last of a name: the later mistral-v1.
    if (one["family"] == family && (family != "mistral-v1" || one["talks"].size() > 3)) {
      return one["config"];
    }
  }
  return {};
}

TEST(ChatTemplate, NearlyAMistralTemplateIsRefused) {
  for (const auto& [family, from, to] :
       {std::tuple{"mistral-v3", "loop.last and system_message", "loop.length and system_message"},
        {"mistral-v3", "\"[INST] \" + message[\"content\"]", "\"[INST] \" + message[\"text\"]"},
        {"mistral-v3", "\"\\n\\n\" + message", "\"\\n\" + message"},
        {"mistral-v3", "|trim", "|upper"},
        {"mistral-v3", "{{- bos_token }}", "{{- bos_token }}{{- bos_token }}"},
        {"mistral-v3", "{{- bos_token }}", "{{- bos_token }}hello"},
        {"mistral-v3", "{{- bos_token }}", "{{- bos_token + bos_token }}"},
        {"mistral-v3", "messages[1:]", "messages[2:]"},
        {"mistral-v3", "tools is not none and", "tools is none and"},
        {"mistral-v3", "{%- endfor %}\n\n{{- bos", "{{- bos"},
        {"mistral-v3-tekken", "{{- bos_token }}", "{%- set messages = [] %}{{- bos_token }}"},
        {"mistral-v7", "'[SYSTEM_PROMPT] ' +", "'[SYSTEM_PROMPT] ' + bos_token +"},
        {"mistral-v7", "{{ ' ' + message", "{{ '\\u0020' + message"},
        {"mistral-v7-tekken", "%Y-%m-%d", "%d.%m.%Y"},
        {"mistral-v7-tekken", "+ today +", "+ yesterday +"},
        {"mistral-v7-tekken", "'[INST]' + message", "'[INST] ' + '' + message"}}) {
    Json near = ConfigOf(family);
    auto text = near["chat_template"].get<std::string>();
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << family << " " << from;
    near["chat_template"] = text.replace(at, std::string_view(from).size(), to);
    EXPECT_THAT(Refusal(near), HasSubstr("(known: llama-2")) << from;
  }
}

TEST(ChatTemplate, ASystemMessageWithADateWantsOne) {
  const ChatTemplate chat = Parsed(ConfigOf("mistral-v7-tekken"));
  EXPECT_EQ(chat.date_format(), "%Y-%m-%d");
  EXPECT_THAT(std::string(chat.Begin({{"user", "a"}}).status().message()),
              HasSubstr("date: empty"));
  EXPECT_TRUE(chat.Begin({{"system", ""}, {"user", "a"}}).ok());
  EXPECT_EQ(Parsed(ConfigOf("mistral-v3")).date_format(), "");
  EXPECT_EQ(Parsed(ConfigOf("llama-3.1")).date_format(), "");
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
