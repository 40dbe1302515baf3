#include "toml.h"

#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <limits>

namespace tpuserve::simchip {

namespace {

[[noreturn]] void fail(int line, const std::string& text) {
  throw TomlError("line " + std::to_string(line) + ": " + text);
}

template <typename Type>
const Type& expect(const TomlValue& value, const char* what) {
  const Type* found = std::get_if<Type>(&value.value);
  if (found == nullptr) fail(value.line, std::string("expected ") + what);
  return *found;
}

bool is_key_character(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '-';
}

class Parser {
 public:
  explicit Parser(const std::string& text) : text_(text) {}

  std::vector<TomlSection> run() {
    std::vector<TomlSection> sections(1);
    for (skip_blank(true); !done(); skip_blank(true)) {
      if (peek() == '[') {
        sections.push_back(header());
        check_unique(sections);
      } else {
        assignment(sections.back());
      }
      skip_blank(false);
      if (!done() && peek() != '\n') fail(line_, "expected the end of the line");
    }
    return sections;
  }

 private:
  bool done() const { return at_ >= text_.size(); }
  char peek() const { return done() ? '\0' : text_[at_]; }
  char take() {
    if (done()) fail(line_, "the text ends too early");
    if (text_[at_] == '\n') ++line_;
    return text_[at_++];
  }
  void expect_character(char wanted) {
    if (done() || text_[at_] != wanted) fail(line_, std::string("expected ") + wanted);
    take();
  }

  // Spaces and comments, and line ends too when `lines`.
  void skip_blank(bool lines) {
    while (!done()) {
      const char c = peek();
      if (c == '#') {
        while (!done() && peek() != '\n') take();
      } else if (c == ' ' || c == '\t' || c == '\r' || (lines && c == '\n')) {
        take();
      } else {
        return;
      }
    }
  }

  std::string key(bool dotted) {
    std::string result;
    while (!done() && (is_key_character(peek()) || (dotted && peek() == '.'))) result += take();
    if (result.empty()) fail(line_, "expected a name");
    return result;
  }

  TomlSection header() {
    TomlSection section;
    section.line = line_;
    expect_character('[');
    section.element = peek() == '[';
    if (section.element) take();
    section.name = key(/*dotted=*/true);
    expect_character(']');
    if (section.element) expect_character(']');
    return section;
  }

  static void check_unique(const std::vector<TomlSection>& sections) {
    const TomlSection& last = sections.back();
    for (std::size_t i = 0; i + 1 < sections.size(); ++i) {
      if (sections[i].name != last.name) continue;
      if (!sections[i].element || !last.element) {
        fail(last.line, "table " + last.name + " is there twice");
      }
    }
  }

  void assignment(TomlSection& section) {
    const int line = line_;
    const std::string name = key(/*dotted=*/false);
    skip_blank(false);
    expect_character('=');
    skip_blank(false);
    if (!section.values.emplace(name, value()).second) fail(line, name + " is there twice");
  }

  TomlValue value() {
    const int line = line_;
    if (peek() == '"') return {string(), line};
    if (peek() == '[') return {array(), line};
    std::string word;
    while (!done() && (is_key_character(peek()) || peek() == '.' || peek() == '+')) word += take();
    if (word == "true") return {true, line};
    if (word == "false") return {false, line};
    return {number(word), line};
  }

  std::string string() {
    std::string result;
    take();
    for (char c = take(); c != '"'; c = take()) {
      if (c == '\n') fail(line_ - 1, "a string must end on its line");
      if (c == '\\') {
        c = take();
        if (c != '"' && c != '\\') fail(line_, "only \\\" and \\\\ are known escapes");
      }
      result += c;
    }
    return result;
  }

  std::vector<TomlValue> array() {
    std::vector<TomlValue> result;
    take();
    for (skip_blank(true); peek() != ']'; skip_blank(true)) {
      result.push_back(value());
      skip_blank(true);
      if (peek() != ']') expect_character(',');
    }
    take();
    return result;
  }

  decltype(TomlValue::value) number(const std::string& word) const {
    std::string digits;
    for (const char c : word) {
      if (c != '_') digits += c;
    }
    const bool known =
        !digits.empty() && digits.find_first_not_of("+-.0123456789eE") == std::string::npos;
    if (!known) fail(line_, "expected a value, not '" + word + "'");
    char* end = nullptr;
    errno = 0;
    if (digits.find_first_of(".eE") == std::string::npos) {
      const long long parsed = std::strtoll(digits.c_str(), &end, 10);
      if (*end == '\0' && errno == 0) return std::int64_t{parsed};
    } else {
      const double parsed = std::strtod(digits.c_str(), &end);
      if (*end == '\0' && errno == 0) return parsed;
    }
    fail(line_, "'" + word + "' is not a number that fits");
  }

  const std::string& text_;
  std::size_t at_ = 0;
  int line_ = 1;
};

}  // namespace

bool TomlValue::boolean() const { return expect<bool>(*this, "true or false"); }

std::int64_t TomlValue::integer() const { return expect<std::int64_t>(*this, "an integer"); }

double TomlValue::number() const {
  const auto* whole = std::get_if<std::int64_t>(&value);
  return whole != nullptr ? static_cast<double>(*whole) : expect<double>(*this, "a number");
}

const std::string& TomlValue::text() const { return expect<std::string>(*this, "a string"); }

std::vector<TomlSection> parse_toml(const std::string& text) { return Parser(text).run(); }

}  // namespace tpuserve::simchip
