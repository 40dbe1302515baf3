// The part of TOML that profiles use: tables, arrays of tables, and keys with numbers, booleans,
// basic strings and arrays. No dotted or quoted keys, dates, inline tables or multi-line strings.
#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

namespace tpuserve::simchip {

// The text begins with "line N: ".
struct TomlError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct TomlValue {
  std::variant<bool, std::int64_t, double, std::string, std::vector<TomlValue>> value;
  int line = 0;

  // Each throws TomlError naming what was expected.
  bool boolean() const;
  std::int64_t integer() const;
  double number() const;  // an integer counts
  const std::string& text() const;
};

// One [name] or [[name]]; several of the latter have the same name. Keys before the first header
// belong to a section without a name.
struct TomlSection {
  std::string name;
  bool element = false;  // [[name]]
  int line = 0;
  std::map<std::string, TomlValue> values;
};

// Throws TomlError.
std::vector<TomlSection> parse_toml(const std::string& text);

}  // namespace tpuserve::simchip
