#ifndef LOLA_MEMORY_STORE_KEYS_H_
#define LOLA_MEMORY_STORE_KEYS_H_

// Keys of the record store. Pure functions, any thread. Numbers are big-endian: order of keys is
// order of numbers.
//
// Main family                                   value
//   "m"                                         StoreRecord
//   "p"                                         nothing, read by nobody (RecordDb::PadTables)
//   "s" stream id                               StreamRecord
//   "l" log id, stream uid                      who reads a log: LogRefValue
//   "b" blob id, stream uid                     who lists a blob: empty
//   "x" "l" log id, note  "x" "b" blob id, note  perhaps nobody's any more: to be looked at: empty
// Log family
//   log id, block number                        token block

#include <cstdint>
#include <string>
#include <string_view>

#include "memory/ids.h"

namespace lola::store {

inline constexpr size_t kUidBytes = 32;

inline void PutBe64(uint64_t value, std::string* out) {
  for (int shift = 56; shift >= 0; shift -= 8) *out += char(value >> shift);
}

inline uint64_t GetBe64(std::string_view bytes) {  // REQUIRES: bytes.size() >= 8
  uint64_t value = 0;
  for (int i = 0; i < 8; ++i) value = value << 8 | static_cast<unsigned char>(bytes[i]);
  return value;
}

inline std::string StoreKey() { return "m"; }
inline std::string PaddingKey() { return "p"; }
inline std::string StreamKey(std::string_view stream_id) {
  std::string key = "s";
  key += stream_id;
  return key;
}

inline std::string LogRefPrefix(memory::LogId log_id) {
  std::string key = "l";
  PutBe64(log_id, &key);
  return key;
}
inline std::string LogRefKey(memory::LogId log_id, std::string_view uid) {
  return LogRefPrefix(log_id) + std::string(uid);
}
// Two big-endian numbers: where the log starts, and up to where this stream reads it; 0 = the
// stream writes it.
inline std::string LogRefValue(uint64_t from, uint64_t upto) {
  std::string value;
  PutBe64(from, &value);
  PutBe64(upto, &value);
  return value;
}
inline std::string BlobRefPrefix(std::string_view blob_id) {
  std::string key = "b";
  key += blob_id;
  return key;
}
inline std::string BlobRefKey(std::string_view blob_id, std::string_view uid) {
  return BlobRefPrefix(blob_id) + std::string(uid);
}
// `note` is unique for each write that leaves one: the collector removes the notes it saw before it
// looked, never one that was left meanwhile.
inline std::string LogGarbageKey(memory::LogId log_id, std::string_view note) {
  std::string key = "xl";
  PutBe64(log_id, &key);
  key += note;
  return key;
}
inline std::string BlobGarbageKey(std::string_view blob_id, std::string_view note) {
  std::string key = "xb";
  key += blob_id;
  key += note;
  return key;
}
// What a note is about.
inline bool IsLogGarbage(std::string_view key) { return key.substr(0, 2) == "xl"; }
inline memory::LogId GarbageLog(std::string_view key) { return GetBe64(key.substr(2)); }
inline std::string GarbageBlob(std::string_view key) {
  return std::string(key.substr(2, kUidBytes));
}

inline std::string BlockKey(memory::LogId log_id, uint64_t block) {
  std::string key;
  PutBe64(log_id, &key);
  PutBe64(block, &key);
  return key;
}

}  // namespace lola::store

#endif  // LOLA_MEMORY_STORE_KEYS_H_
