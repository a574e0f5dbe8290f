#include "services/metrics/exporter.h"

#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <exception>
#include <fstream>
#include <map>
#include <mutex>
#include <utility>

#include "prometheus/collectable.h"
#include "prometheus/exposer.h"
#include "prometheus/metric_family.h"
#include "prometheus/text_serializer.h"

namespace lola::metrics {
namespace {

prometheus::MetricType TypeOf(Page::Series::Kind kind) {
  switch (kind) {
    case Page::Series::Kind::kCounter:
      return prometheus::MetricType::Counter;
    case Page::Series::Kind::kGauge:
      return prometheus::MetricType::Gauge;
    case Page::Series::Kind::kHistogram:
      return prometheus::MetricType::Histogram;
  }
  return prometheus::MetricType::Untyped;
}

void FillHistogram(const HistogramData& data, prometheus::ClientMetric& metric) {
  uint64_t total = 0;
  for (size_t i = 0; i < data.bounds.size(); ++i) {
    total += i < data.counts.size() ? data.counts[i] : 0;
    metric.histogram.bucket.push_back({total, data.bounds[i]});
  }
  for (size_t i = data.bounds.size(); i < data.counts.size(); ++i) total += data.counts[i];
  metric.histogram.sample_count = total;
  metric.histogram.sample_sum = data.sum;
}

double SecondsOf(const timeval& time) { return time.tv_sec + time.tv_usec * 1e-6; }

double ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  uint64_t total = 0, resident = 0;
  statm >> total >> resident;
  return static_cast<double>(resident) * static_cast<double>(sysconf(_SC_PAGESIZE));
}

// Sources to families: series of one name become one family, whichever source wrote them.
class Collector : public prometheus::Collectable {
 public:
  Collector(std::string process, std::vector<Source> sources)
      : process_(std::move(process)),
        sources_(std::move(sources)),
        started_(std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch())
                     .count()) {}

  std::vector<prometheus::MetricFamily> Collect() const override {
    Page page;
    WriteProcess(page);
    for (const Source& source : sources_) source(page);
    std::map<std::string, prometheus::MetricFamily> families;
    for (const Page::Series& series : page.series()) {
      prometheus::MetricFamily& family = families[series.name];
      family.name = series.name;
      family.help = series.help;
      family.type = TypeOf(series.kind);
      prometheus::ClientMetric metric;
      for (const auto& [name, value] : series.labels) metric.label.push_back({name, value});
      if (series.kind == Page::Series::Kind::kCounter) metric.counter.value = series.value;
      if (series.kind == Page::Series::Kind::kGauge) metric.gauge.value = series.value;
      if (series.kind == Page::Series::Kind::kHistogram) FillHistogram(series.histogram, metric);
      family.metric.push_back(std::move(metric));
    }
    std::vector<prometheus::MetricFamily> result;
    result.reserve(families.size());
    for (auto& [name, family] : families) result.push_back(std::move(family));
    return result;
  }

 private:
  void WriteProcess(Page& page) const {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    const Labels labels = {{"process", process_}};
    page.Gauge("lola_process_resident_memory_bytes", "Resident memory of the process.",
               ResidentBytes(), labels);
    page.Counter("lola_process_cpu_seconds_total", "User and system CPU time of the process.",
                 SecondsOf(usage.ru_utime) + SecondsOf(usage.ru_stime), labels);
    page.Gauge("lola_process_start_time_seconds", "Unix time the process started at.", started_,
               labels);
  }

  const std::string process_;
  const std::vector<Source> sources_;
  const double started_;
};

bool IsLoopback(const std::string& host) {
  return host == "localhost" || host == "::1" || host == "[::1]" || host.rfind("127.", 0) == 0;
}

}  // namespace

void Page::Counter(std::string_view name, std::string_view help, double value, Labels labels) {
  series_.push_back(
      {Series::Kind::kCounter, std::string(name), std::string(help), std::move(labels), value, {}});
}

void Page::Gauge(std::string_view name, std::string_view help, double value, Labels labels) {
  series_.push_back(
      {Series::Kind::kGauge, std::string(name), std::string(help), std::move(labels), value, {}});
}

void Page::Histogram(std::string_view name, std::string_view help, HistogramData data,
                     Labels labels) {
  series_.push_back({Series::Kind::kHistogram, std::string(name), std::string(help),
                     std::move(labels), 0, std::move(data)});
}

struct Exporter::Impl {
  std::shared_ptr<Collector> collector;
  std::unique_ptr<prometheus::Exposer> exposer;
  int port = 0;
};

Exporter::Exporter(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Exporter::~Exporter() = default;
int Exporter::port() const { return impl_->port; }

std::string Exporter::Text() const {
  return prometheus::TextSerializer().Serialize(impl_->collector->Collect());
}

absl::StatusOr<std::unique_ptr<Exporter>> Exporter::Start(const std::string& bind,
                                                          const std::string& process,
                                                          std::vector<Source> sources,
                                                          bool allow_any_bind) {
  auto impl = std::make_unique<Impl>();
  impl->collector = std::make_shared<Collector>(process, std::move(sources));
  if (!bind.empty()) {
    const size_t colon = bind.rfind(':');
    if (colon == std::string::npos || colon + 1 == bind.size()) {
      return absl::InvalidArgumentError("metrics bind '" + bind + "' is not host:port");
    }
    if (!IsLoopback(bind.substr(0, colon)) && !allow_any_bind) {
      return absl::FailedPreconditionError(
          "metrics bind '" + bind +
          "' is not loopback and /metrics has no TLS: give --insecure to allow it");
    }
    try {
      // Two threads: one scrape and one person looking.
      impl->exposer = std::make_unique<prometheus::Exposer>(bind, 2);
      impl->exposer->RegisterCollectable(impl->collector);
      const auto ports = impl->exposer->GetListeningPorts();
      impl->port = ports.empty() ? 0 : ports.front();
    } catch (const std::exception& error) {
      return absl::UnavailableError("cannot serve metrics on " + bind + ": " + error.what() +
                                    " (is the port in use?)");
    }
  }
  return std::unique_ptr<Exporter>(new Exporter(std::move(impl)));
}

}  // namespace lola::metrics
