// A Jinja template as its tags, spelled one way. Nothing is run. Pure: any thread may call.
#ifndef LOLA_SERVICES_ENGINE_JINJA_TAGS_H_
#define LOLA_SERVICES_ENGINE_JINJA_TAGS_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lola::engine {

// {{ code }} or {% code %}. Code has no blanks outside of literals, literals stand in double
// quotes, x.content and x.role are spelled x["content"] and x["role"].
struct JinjaTag {
  bool output = false;
  std::string code;
};

// The tags in order, without comments. Nothing when text between them would be shown, when one has
// no end, or when a literal uses an escape other than \n \t \r \\ \" \'.
std::optional<std::vector<JinjaTag>> ReadJinjaTags(std::string_view jinja);

// "a"+b+"c" -> {"\"a\"", "b", "\"c\""}: cut at + outside of literals and brackets.
std::vector<std::string> JinjaTerms(std::string_view code);
// The text of a term that is one literal; nothing for other terms.
std::optional<std::string> JinjaLiteral(std::string_view term);

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_JINJA_TAGS_H_
