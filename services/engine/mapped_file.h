// A read-only memory mapping of a whole file. Movable; the mapping lives as long as the object.
#ifndef LOLA_SERVICES_ENGINE_MAPPED_FILE_H_
#define LOLA_SERVICES_ENGINE_MAPPED_FILE_H_

#include <cstddef>
#include <span>
#include <string>

#include "absl/status/statusor.h"

namespace lola::engine {

class MappedFile {
 public:
  // NOT_FOUND, PERMISSION_DENIED or UNAVAILABLE naming the path and the system's reason.
  static absl::StatusOr<MappedFile> Open(const std::string& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }

 private:
  MappedFile() = default;
  std::string path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Gives mapped pages that lie whole inside `data` back to the system; reading them again fetches
// them from the file. REQUIRES: `data` lies in a MappedFile.
void ReleasePages(std::span<const std::byte> data);

// The whole of a small text file. NOT_FOUND naming the path; INVALID_ARGUMENT beyond `bytes_max`.
absl::StatusOr<std::string> ReadTextFile(const std::string& path, size_t bytes_max);

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_MAPPED_FILE_H_
