// How `lola` writes: tables, numbers for people, protocol messages as JSON, a progress line.
// One thread at a time.
#ifndef LOLA_SERVICES_CLI_OUTPUT_H_
#define LOLA_SERVICES_CLI_OUTPUT_H_

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace google::protobuf {
class Message;
}  // namespace google::protobuf

namespace lola::cli {

std::string Grouped(uint64_t number);          // 1,234,567
std::string HumanBytes(uint64_t bytes);        // 1.8 MiB
std::string HumanSeconds(double seconds);      // 12.3 s, 3.4 ms
std::string HumanTime(int64_t unix_ms);        // 2026-01-31 12:00:00 UTC; "-" for 0
std::string Hex(const std::string& bytes);     // a digest
std::string OneLine(const std::string& text);  // control characters made visible

// Columns padded to their widest cell; the first row is the head. Ends with a line feed.
std::string Table(const std::vector<std::vector<std::string>>& rows);

// The message as JSON with the names of the .proto, zero fields included.
std::string ToJson(const google::protobuf::Message& message);
void PrintJson(const google::protobuf::Message& message);
void PrintText(const std::string& text);  // to stdout, flushed

// "12,345 tokens  3,210 tokens/s ..." rewritten in place on a terminal, nothing elsewhere.
class ProgressLine {
 public:
  ProgressLine();
  ~ProgressLine();
  // Shown at most ten times a second; `share` in 0..1, below 0: no bar.
  void Show(double share, const std::string& text);
  void Clear();

 private:
  const bool terminal_;
  bool shown_ = false;
  std::chrono::steady_clock::time_point last_;
};

}  // namespace lola::cli

#endif  // LOLA_SERVICES_CLI_OUTPUT_H_
