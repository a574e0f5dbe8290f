// Serves /metrics. The core counts in plain numbers; at each scrape every source writes its present
// numbers into a Page. A source writes the same series every time, so that all of them exist from
// the first scrape on. Names: prefix lola_, base units, counters end in _total.
#ifndef LOLA_SERVICES_METRICS_EXPORTER_H_
#define LOLA_SERVICES_METRICS_EXPORTER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "services/metrics/instruments.h"

namespace lola::metrics {

using Labels = std::vector<std::pair<std::string, std::string>>;

// The series of one scrape. Written by sources on the scraping thread.
class Page {
 public:
  struct Series {
    enum class Kind { kCounter, kGauge, kHistogram } kind;
    std::string name;
    std::string help;
    Labels labels;
    double value = 0;
    HistogramData histogram;
  };

  void Counter(std::string_view name, std::string_view help, double value, Labels labels = {});
  void Gauge(std::string_view name, std::string_view help, double value, Labels labels = {});
  void Histogram(std::string_view name, std::string_view help, HistogramData data,
                 Labels labels = {});
  const std::vector<Series>& series() const { return series_; }

 private:
  std::vector<Series> series_;
};

// Must be safe from any thread for as long as the exporter lives.
using Source = std::function<void(Page&)>;

class Exporter {
 public:
  // `bind` = host:port, port 0 = any; empty = no listening, Text() only. The process series
  // (resident memory, CPU seconds, start time) are always there, labelled with `process`.
  // Errors: UNAVAILABLE naming the address when it is in use; INVALID_ARGUMENT; FAILED_PRECONDITION
  // for a bind that is not loopback unless `allow_any_bind`.
  static absl::StatusOr<std::unique_ptr<Exporter>> Start(const std::string& bind,
                                                         const std::string& process,
                                                         std::vector<Source> sources,
                                                         bool allow_any_bind = false);
  ~Exporter();
  int port() const;  // 0 when not listening
  // What /metrics answers, for tests.
  std::string Text() const;

 private:
  struct Impl;
  explicit Exporter(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace lola::metrics

#endif  // LOLA_SERVICES_METRICS_EXPORTER_H_
