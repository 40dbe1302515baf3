// What drawing a token from a row of logits costs, for each way of drawing.
//
//   sampling [--vocabulary N] [--rows N] [--rounds N]
//
// Rows are normal noise with a few likely tokens, as of a language model that is fairly sure.
// Prints one line of JSON for each way: the median over the rounds of this thread's CPU time for
// all rows.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "tpuserve/sampler/sampler.h"

namespace {

using tpuserve::sampler::Sampler;
using tpuserve::sampler::SamplingParams;

struct Options {
  std::size_t vocabulary = 152064;
  std::size_t rows = 16;
  std::size_t rounds = 15;
};

Options parse(const std::vector<std::string>& arguments) {
  Options options;
  for (std::size_t i = 0; i + 1 < arguments.size(); i += 2) {
    const std::size_t value = std::stoul(arguments[i + 1]);
    if (arguments[i] == "--vocabulary") {
      options.vocabulary = value;
    } else if (arguments[i] == "--rows") {
      options.rows = value;
    } else if (arguments[i] == "--rounds") {
      options.rounds = value;
    } else {
      throw std::invalid_argument("unknown option " + arguments[i]);
    }
  }
  return options;
}

std::vector<float> make_rows(const Options& options, std::mt19937& random) {
  std::normal_distribution<float> noise(0, 2.5F);
  std::vector<float> rows(options.vocabulary * options.rows);
  for (float& value : rows) value = noise(random);
  constexpr int kLikely = 40;
  for (std::size_t row = 0; row < options.rows; ++row) {
    for (int i = 0; i < kLikely; ++i) {
      const std::size_t token = random() % options.vocabulary;
      rows[row * options.vocabulary + token] += 6.0F + 0.2F * static_cast<float>(i);
    }
  }
  return rows;
}

struct Way {
  const char* name;
  SamplingParams params;
};

std::vector<Way> ways() {
  SamplingParams greedy;
  greedy.temperature = 0;
  SamplingParams warm;
  warm.temperature = 0.8;
  const auto with = [](SamplingParams params, const auto& change) {
    change(params);
    return params;
  };
  const SamplingParams top_p = with(warm, [](SamplingParams& p) { p.top_p = 0.95; });
  return {
      {"greedy", greedy},
      {"temperature", warm},
      {"top-k 40", with(warm, [](SamplingParams& p) { p.top_k = 40; })},
      {"top-p 0.95", top_p},
      {"min-p 0.05", with(warm, [](SamplingParams& p) { p.min_p = 0.05; })},
      {"top-k 40, top-p 0.95, min-p 0.05", with(top_p,
                                                [](SamplingParams& p) {
                                                  p.top_k = 40;
                                                  p.min_p = 0.05;
                                                })},
      {"top-p 0.95, penalties", with(top_p,
                                     [](SamplingParams& p) {
                                       p.repetition_penalty = 1.1;
                                       p.presence_penalty = 0.5;
                                       p.frequency_penalty = 0.2;
                                     })},
      {"greedy, 5 logprobs", with(greedy, [](SamplingParams& p) { p.logprobs = 5; })},
      {"top-p 0.95, 5 logprobs", with(top_p, [](SamplingParams& p) { p.logprobs = 5; })},
  };
}

double thread_cpu_us() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) * 1e-3;
}

double median_us(const Options& options, const Way& way, const std::vector<float>& rows,
                 std::mt19937& random) {
  constexpr std::size_t kPromptTokens = 512;
  std::vector<std::int32_t> prompt(kPromptTokens);
  for (std::int32_t& id : prompt) id = static_cast<std::int32_t>(random() % options.vocabulary);
  std::vector<Sampler> samplers;
  for (std::size_t row = 0; row < options.rows; ++row) {
    SamplingParams params = way.params;
    params.seed = row;
    samplers.emplace_back(params, static_cast<int>(options.vocabulary), prompt.data(),
                          prompt.size());
  }
  std::vector<double> samples_us;
  for (std::size_t round = 0; round < options.rounds; ++round) {
    const double before_us = thread_cpu_us();
    for (std::size_t row = 0; row < options.rows; ++row) {
      const float* logits = rows.data() + row * options.vocabulary;
      tpuserve::sampler::check_row(logits, options.vocabulary);
      samplers[row].draw(logits);
    }
    samples_us.push_back(thread_cpu_us() - before_us);
  }
  std::sort(samples_us.begin(), samples_us.end());
  return samples_us[samples_us.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Options options = parse({argv + 1, argv + argc});
    std::mt19937 random(1684);
    const std::vector<float> rows = make_rows(options, random);
    for (const Way& way : ways()) {
      std::printf("{\"way\": \"%s\", \"us\": %.1f}\n", way.name,
                  median_us(options, way, rows, random));
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return EXIT_FAILURE;
  }
  return EXIT_SUCCESS;
}
