#include "tpuserve/sampler/token_window.h"

#include <gtest/gtest.h>

namespace tpuserve::sampler {
namespace {

TEST(TokenWindowTest, CountsPromptAndCompletionApart) {
  TokenWindow window(0);
  window.push(7, false);
  window.push(7, true);
  window.push(8, true);
  EXPECT_EQ(window.counts().at(7).all, 2);
  EXPECT_EQ(window.counts().at(7).completion, 1);
  EXPECT_EQ(window.counts().at(8).completion, 1);
}

TEST(TokenWindowTest, ForgetsWhatIsOlderThanTheWindow) {
  TokenWindow window(3);
  window.push(1, false);
  for (const int token : {2, 3, 2}) window.push(token, true);
  EXPECT_EQ(window.counts().count(1), 0U);
  EXPECT_EQ(window.counts().at(2).all, 2);
  window.push(4, true);
  EXPECT_EQ(window.counts().at(2).completion, 1);
  EXPECT_EQ(window.counts().size(), 3U);
}

TEST(TokenWindowTest, WithoutALimitNothingIsForgotten) {
  TokenWindow window(0);
  for (int token = 0; token < 1000; ++token) window.push(token % 10, true);
  EXPECT_EQ(window.counts().at(3).all, 100);
}

}  // namespace
}  // namespace tpuserve::sampler
