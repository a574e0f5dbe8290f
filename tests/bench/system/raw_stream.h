// The peer a snapshot transfer is compared with: bytes through the same RPCs of the same gRPC
// server and channel settings over a real socket, with nothing done to them. Messages are raw
// buffers that point into memory, the receiver drops them: no serialisation, no checksum, no file,
// no copy of ours. One transfer at a time.
#ifndef LOLA_TESTS_BENCH_SYSTEM_RAW_STREAM_H_
#define LOLA_TESTS_BENCH_SYSTEM_RAW_STREAM_H_

#include <cstddef>
#include <memory>
#include <span>

namespace lola::bench {

class RawStream {
 public:
  // Listens on loopback and connects to itself. Ends the program when it cannot.
  explicit RawStream(size_t chunk_bytes);
  ~RawStream();
  RawStream(const RawStream&) = delete;
  RawStream& operator=(const RawStream&) = delete;

  // Each sends all bytes in messages of chunk_bytes and returns the seconds from the first call to
  // the end of the RPC. The number of bytes that arrived is checked.
  double Upload(std::span<const char> bytes);
  double Download(std::span<const char> bytes);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lola::bench

#endif  // LOLA_TESTS_BENCH_SYSTEM_RAW_STREAM_H_
