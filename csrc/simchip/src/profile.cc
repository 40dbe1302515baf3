#include "profile.h"

#include <fstream>
#include <functional>
#include <iterator>
#include <limits>

#include "toml.h"

namespace tpuserve::simchip {

namespace {

using Readers = std::map<std::string, std::function<void(const TomlValue&)>>;

[[noreturn]] void fail(int line, const std::string& text) {
  throw TomlError("line " + std::to_string(line) + ": " + text);
}

void read_section(const TomlSection& section, const Readers& readers) {
  for (const auto& [key, value] : section.values) {
    const auto reader = readers.find(key);
    if (reader == readers.end()) {
      fail(value.line, "table " + section.name + " has no key " + key);
    }
    reader->second(value);
  }
}

std::function<void(const TomlValue&)> into(double& target) {
  return [&target](const TomlValue& value) {
    target = value.number();
    if (!(target >= 0)) fail(value.line, "expected a number of at least 0");
  };
}

std::int64_t whole(const TomlValue& value, std::int64_t least, std::int64_t most) {
  const std::int64_t number = value.integer();
  if (number < least || number > most) {
    fail(value.line, "expected " + std::to_string(least) + " to " + std::to_string(most));
  }
  return number;
}

constexpr std::int64_t kIntMax = std::numeric_limits<int>::max();

void read_chip(const TomlSection& section, Profile& profile) {
  constexpr std::int64_t kMostChips = 64;
  constexpr std::int64_t kMostMemory = std::int64_t{1} << 40;
  double watts = 0;
  read_section(
      section,
      {{"count",
        [&](const TomlValue& v) { profile.chips = static_cast<int>(whole(v, 1, kMostChips)); }},
       {"memory_bytes",
        [&](const TomlValue& v) {
          profile.memory_bytes = static_cast<std::uint64_t>(whole(v, 1, kMostMemory));
        }},
       {"temperature_celsius",
        [&](const TomlValue& v) {
          profile.temperature_celsius = static_cast<unsigned>(whole(v, 0, 200));
        }},
       {"power_watts",
        [&](const TomlValue& v) {
          into(watts)(v);
          profile.power_watts = static_cast<float>(watts);
        }},
       {"clock_mhz",
        [&](const TomlValue& v) { profile.clock_mhz = static_cast<int>(whole(v, 1, kIntMax)); }}});
}

void read_net_cost(const TomlSection& section, NetCost& cost) {
  read_section(section, {{"launch_us", into(cost.launch_us)},
                         {"row_us", into(cost.row_us)},
                         {"weight_bytes", into(cost.weight_bytes)},
                         {"weight_gb_per_s", into(cost.weight_gb_per_s)},
                         {"kv_gb_per_s", into(cost.kv_gb_per_s)}});
}

FaultKind fault_kind(const TomlValue& value) {
  static const std::map<std::string, FaultKind> kKinds = {{"fail", FaultKind::kFail},
                                                          {"hang", FaultKind::kHang},
                                                          {"nan", FaultKind::kNan},
                                                          {"chip_fault", FaultKind::kChipFault}};
  const auto found = kKinds.find(value.text());
  if (found == kKinds.end()) fail(value.line, "expected fail, hang, nan or chip_fault");
  return found->second;
}

Fault read_fault(const TomlSection& section) {
  Fault fault;
  bool has_kind = false;
  read_section(
      section,
      {{"token", [&](const TomlValue& v) { fault.token = static_cast<int>(whole(v, 0, kIntMax)); }},
       {"net", [&](const TomlValue& v) { fault.net = v.text(); }},
       {"launch",
        [&](const TomlValue& v) {
          fault.launch =
              static_cast<std::uint64_t>(whole(v, 1, std::numeric_limits<std::int64_t>::max()));
        }},
       {"kind",
        [&](const TomlValue& v) {
          fault.kind = fault_kind(v);
          has_kind = true;
        }},
       {"seconds", into(fault.seconds)}});
  const bool has_cause = (fault.launch > 0) != (fault.token >= 0);
  if (!has_cause || !has_kind) fail(section.line, "a fault needs kind, and launch or token");
  return fault;
}

const std::map<std::string, NetKind>& kinds_by_name() {
  static const std::map<std::string, NetKind> kKinds = {
      {"embedding", NetKind::kEmbedding}, {"block", NetKind::kBlock},
      {"block_kv", NetKind::kBlockKv},    {"block_cache", NetKind::kBlockCache},
      {"lm_head", NetKind::kHead},        {"greedy_head", NetKind::kGreedyHead}};
  return kKinds;
}

void read_table(const TomlSection& section, Profile& profile) {
  const std::string prefix = "latency.";
  if (section.name.empty() && section.values.empty()) return;
  if (section.name == "chip") return read_chip(section, profile);
  if (section.name == "latency") return read_section(section, {{"scale", into(profile.scale)}});
  if (section.name == "latency.copy") {
    return read_section(
        section, {{"copy_us", into(profile.copy_us)}, {"gb_per_s", into(profile.copy_gb_per_s)}});
  }
  if (section.name == "fault" && section.element) {
    profile.faults.push_back(read_fault(section));
    return;
  }
  if (section.name == "model") {
    // The rest of this table is for who writes the model's file.
    const auto found = section.values.find("vocab_size");
    if (found != section.values.end()) {
      profile.vocab_size = static_cast<int>(whole(found->second, 3, kIntMax));
    }
    return;
  }
  if (section.name.compare(0, prefix.size(), prefix) == 0) {
    const auto kind = kinds_by_name().find(section.name.substr(prefix.size()));
    if (kind != kinds_by_name().end()) return read_net_cost(section, profile.costs[kind->second]);
  }
  fail(section.line, "no table " + section.name + " is known");
}

}  // namespace

Profile load_profile(const std::string& path) {
  std::ifstream file(path);
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (!file.good() && !file.eof()) throw ProfileError(path + ": cannot be read");
  Profile profile;
  constexpr std::uint64_t kSixteenGibibytes = std::uint64_t{16} << 30;
  profile.memory_bytes = kSixteenGibibytes;
  try {
    for (const TomlSection& section : parse_toml(text)) read_table(section, profile);
  } catch (const TomlError& error) {
    throw ProfileError(path + ": " + error.what());
  }
  return profile;
}

}  // namespace tpuserve::simchip
