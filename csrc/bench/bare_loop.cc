// Greedy decoding with nothing around the engine: what a served stream is compared with.
//
//   bare_loop LIBRARY_DIRECTORY BMODEL [--emulator] [--tokens N] [--prompt ID,ID,…]
//
// Prints one line of JSON; times are of this process's steady clock.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "tpuserve/engine/engine.h"
#include "tpuserve/runtime/library.h"

namespace {

using tpuserve::engine::Engine;
using tpuserve::engine::HeadKind;
using tpuserve::engine::HeadRows;
using Clock = std::chrono::steady_clock;

struct Options {
  std::string directory;
  std::string bmodel;
  bool emulator = false;
  int tokens = 64;
  std::vector<std::int32_t> prompt = {1, 2, 3, 4, 5, 6, 7, 8};
};

Options parse(const std::vector<std::string>& arguments) {
  Options options;
  std::vector<std::string> positional;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const auto value = [&]() -> const std::string& {
      if (i + 1 == arguments.size()) throw std::invalid_argument(arguments[i] + " needs a value");
      return arguments[++i];
    };
    if (arguments[i] == "--emulator") {
      options.emulator = true;
    } else if (arguments[i] == "--tokens") {
      options.tokens = std::stoi(value());
    } else if (arguments[i] == "--prompt") {
      options.prompt.clear();
      std::istringstream ids(value());
      for (std::string id; std::getline(ids, id, ',');) options.prompt.push_back(std::stoi(id));
    } else {
      positional.push_back(arguments[i]);
    }
  }
  if (positional.size() != 2) {
    throw std::invalid_argument(
        "usage: bare_loop LIBRARY_DIRECTORY BMODEL [--emulator] [--tokens N] [--prompt ID,ID,…]");
  }
  options.directory = positional[0];
  options.bmodel = positional[1];
  return options;
}

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

std::int32_t best(const Engine& engine, const std::vector<float>& logits, std::int32_t token) {
  if (engine.spec().head == HeadKind::kArgmax) return token;
  return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

int run(const Options& options) {
  const Clock::time_point start = Clock::now();
  const auto library = tpuserve::runtime::Library::load(options.directory, options.emulator);
  Engine engine(library, {options.bmodel}, {0}, {});
  const double load_ms = ms_since(start);

  std::vector<float> logits(static_cast<std::size_t>(engine.spec().vocab_size));
  std::int32_t token = 0;
  const HeadRows row{logits.data(), &token};
  const Clock::time_point prefill_start = Clock::now();
  const auto chunk = static_cast<std::size_t>(engine.spec().prefill_chunk);
  const std::size_t count = options.prompt.size();
  for (std::size_t done = 0; done < count; done += chunk) {
    const std::size_t n = std::min(chunk, count - done);
    engine.prefill(0, options.prompt.data() + done, n, static_cast<int>(done),
                   done + n == count ? &row : nullptr);
  }
  const double prefill_ms = ms_since(prefill_start);
  token = best(engine, logits, token);

  const int room = engine.spec().context_length - engine.length(0);
  const int tokens = std::min(options.tokens, room);
  std::vector<double> step_ms;
  std::vector<std::int32_t> completion = {token};
  const Clock::time_point decode_start = Clock::now();
  for (int i = 0; i < tokens; ++i) {
    const Clock::time_point step_start = Clock::now();
    engine.decode({0}, &token, row);
    token = best(engine, logits, token);
    step_ms.push_back(ms_since(step_start));
    completion.push_back(token);
  }
  const double decode_ms = ms_since(decode_start);
  std::sort(step_ms.begin(), step_ms.end());
  const double median_ms = step_ms.empty() ? 0 : step_ms[step_ms.size() / 2];
  std::printf(
      "{\"load_ms\": %.1f, \"prompt_tokens\": %zu, \"prefill_ms\": %.2f, \"decode_tokens\": %d, "
      "\"ms_per_token\": %.3f, \"median_ms_per_token\": %.3f, \"tokens_per_s\": %.2f, \"ids\": [",
      load_ms, count, prefill_ms, tokens, decode_ms / std::max(tokens, 1), median_ms,
      1000.0 * tokens / decode_ms);
  for (std::size_t i = 0; i < completion.size(); ++i) {
    std::printf("%s%d", i > 0 ? ", " : "", completion[i]);
  }
  std::printf("]}\n");
  return EXIT_SUCCESS;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(parse({argv + 1, argv + argc}));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bare_loop: %s\n", error.what());
    return EXIT_FAILURE;
  }
}
