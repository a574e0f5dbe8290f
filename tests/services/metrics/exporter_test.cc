#include "services/metrics/exporter.h"

#include <curl/curl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

namespace lola::metrics {
namespace {

using ::testing::HasSubstr;

size_t Collect(char* data, size_t size, size_t count, void* out) {
  static_cast<std::string*>(out)->append(data, size * count);
  return size * count;
}

std::string Fetch(int port) {
  std::string text;
  CURL* curl = curl_easy_init();
  const std::string url = "http://127.0.0.1:" + std::to_string(port) + "/metrics";
  curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
  curl_easy_setopt(curl, CURLOPT_TIMEOUT, 10L);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, Collect);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &text);
  EXPECT_EQ(curl_easy_perform(curl), CURLE_OK);
  curl_easy_cleanup(curl);
  return text;
}

TEST(Exporter, ServesCountersGaugesAndHistogramsOverHttp) {
  DoublingHistogram latency(1e-3);
  latency.Observe(0.0005);
  latency.Observe(0.0015);
  latency.Observe(1e9);
  auto exporter = Exporter::Start("127.0.0.1:0", "test", {[&](Page& page) {
                                    page.Counter("lola_a_total", "A.", 3, {{"reason", "x"}});
                                    page.Counter("lola_a_total", "A.", 4, {{"reason", "y"}});
                                    page.Gauge("lola_b", "B.", -1.5);
                                    page.Histogram("lola_c_seconds", "C.", latency.Data());
                                  }});
  ASSERT_TRUE(exporter.ok()) << exporter.status();
  const std::string text = Fetch((*exporter)->port());
  EXPECT_THAT(text, HasSubstr("# TYPE lola_a_total counter"));
  EXPECT_THAT(text, HasSubstr("lola_a_total{reason=\"x\"} 3"));
  EXPECT_THAT(text, HasSubstr("lola_a_total{reason=\"y\"} 4"));
  EXPECT_THAT(text, HasSubstr("lola_b -1.5"));
  EXPECT_THAT(text, HasSubstr("lola_c_seconds_count 3"));
  EXPECT_THAT(text, HasSubstr("lola_c_seconds_bucket{le=\"0.001\"} 1"));
  EXPECT_THAT(text, HasSubstr("lola_c_seconds_bucket{le=\"0.002\"} 2"));
  EXPECT_THAT(text, HasSubstr("lola_process_resident_memory_bytes{process=\"test\"}"));
}

TEST(Exporter, PortInUseAndBadAddressesAreNamed) {
  auto first = Exporter::Start("127.0.0.1:0", "test", {});
  ASSERT_TRUE(first.ok());
  const std::string same = "127.0.0.1:" + std::to_string((*first)->port());
  const auto second = Exporter::Start(same, "test", {});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(same));
  EXPECT_EQ(Exporter::Start("nonsense", "test", {}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(Exporter, PublicBindNeedsPermission) {
  EXPECT_EQ(Exporter::Start("0.0.0.0:0", "test", {}).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(Exporter::Start("0.0.0.0:0", "test", {}, true).ok());
}

TEST(DoublingHistogram, CountsFromManyThreadsAreNotLost) {
  DoublingHistogram histogram(1);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 10000; ++i) histogram.Observe(i % 4);
    });
  }
  for (std::thread& thread : threads) thread.join();
  uint64_t total = 0;
  const HistogramData data = histogram.Data();
  for (const uint64_t count : data.counts) total += count;
  EXPECT_EQ(total, 40000u);
  EXPECT_EQ(data.sum, 4 * 10000 * 1.5);
  EXPECT_EQ(data.counts.size(), data.bounds.size() + 1);
}

}  // namespace
}  // namespace lola::metrics
