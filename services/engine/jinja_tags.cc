#include "services/engine/jinja_tags.h"

#include <utility>

namespace lola::engine {
namespace {

constexpr std::string_view kBlanks = " \t\r\n";

bool IsBlank(char c) { return kBlanks.find(c) != std::string_view::npos; }

// Reads code until `close` ("}}" or "%}"), moving `at` behind it.
std::optional<std::string> ReadCode(std::string_view jinja, std::string_view close, size_t* at) {
  std::string code;
  char quote = 0;
  while (*at < jinja.size()) {
    const char c = jinja[*at];
    if (quote == 0 && jinja.substr(*at).starts_with(close)) {
      *at += close.size();
      return code;
    }
    if (quote == 0) {
      const std::string_view rest = jinja.substr(*at);
      const std::string_view name = rest.starts_with(".content") ? "content"
                                    : rest.starts_with(".role")  ? "role"
                                                                 : "";
      if (!name.empty()) {
        code += "[\"" + std::string(name) + "\"]";
        *at += name.size() + 1;
        continue;
      }
      if (c == '"' || c == '\'') {
        quote = c;
        code += '"';
      } else if (!IsBlank(c)) {
        code += c;
      }
      ++*at;
      continue;
    }
    ++*at;
    if (c == quote) {
      quote = 0;
      code += '"';
    } else if (c == '\\') {
      if (*at == jinja.size()) return std::nullopt;
      const char escaped = jinja[(*at)++];
      if (std::string_view("ntr\\\"'").find(escaped) == std::string_view::npos) return std::nullopt;
      if (escaped != '\'') code += '\\';
      code += escaped;
    } else if (c == '"') {
      code += "\\\"";
    } else if (c == '\n') {
      code += "\\n";
    } else {
      code += c;
    }
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::vector<JinjaTag>> ReadJinjaTags(std::string_view jinja) {
  std::vector<JinjaTag> tags;
  bool strips = true;  // what stands before: white space between tags is dropped
  size_t at = 0;
  while (at < jinja.size()) {
    size_t open = jinja.find('{', at);
    while (open != std::string_view::npos && open + 1 < jinja.size() &&
           std::string_view("{%#").find(jinja[open + 1]) == std::string_view::npos) {
      open = jinja.find('{', open + 1);
    }
    const bool end = open == std::string_view::npos || open + 2 >= jinja.size();
    const std::string_view text = jinja.substr(at, end ? std::string_view::npos : open - at);
    if (text.find_first_not_of(kBlanks) != std::string_view::npos) return std::nullopt;
    const bool dash = !end && jinja[open + 2] == '-';
    // A template's last line break is dropped too.
    if (!text.empty() && !strips && !dash && !(end && text == "\n")) return std::nullopt;
    if (end) return tags;
    const char kind = jinja[open + 1];
    at = open + (dash ? 3 : 2);
    if (kind == '#') {
      at = jinja.find("#}", at);
      if (at == std::string_view::npos) return std::nullopt;
      strips = jinja[at - 1] == '-';
      at += 2;
      continue;
    }
    auto code = ReadCode(jinja, kind == '{' ? "}}" : "%}", &at);
    if (!code) return std::nullopt;
    strips = code->ends_with('-');
    if (strips) code->pop_back();
    tags.push_back({kind == '{', *std::move(code)});
  }
  return tags;
}

std::vector<std::string> JinjaTerms(std::string_view code) {
  std::vector<std::string> terms(1);
  bool literal = false;
  int depth = 0;
  for (size_t i = 0; i < code.size(); ++i) {
    const char c = code[i];
    if (literal && c == '\\') {
      terms.back() += c;
      terms.back() += code[++i];
      continue;
    }
    if (c == '"') literal = !literal;
    if (!literal && (c == '(' || c == '[')) ++depth;
    if (!literal && (c == ')' || c == ']')) --depth;
    if (!literal && depth == 0 && c == '+') {
      terms.emplace_back();
    } else {
      terms.back() += c;
    }
  }
  return terms;
}

std::optional<std::string> JinjaLiteral(std::string_view term) {
  if (term.size() < 2 || term.front() != '"' || term.back() != '"') return std::nullopt;
  std::string text;
  const std::string_view inside = term.substr(1, term.size() - 2);
  for (size_t i = 0; i < inside.size(); ++i) {
    if (inside[i] == '"') return std::nullopt;  // another literal behind the first
    if (inside[i] != '\\') {
      text += inside[i];
      continue;
    }
    if (++i == inside.size()) return std::nullopt;
    const char c = inside[i];
    text += c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : c;
  }
  return text;
}

}  // namespace lola::engine
