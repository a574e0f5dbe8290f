// Text with hidden pass keys, from the word lists of models/<name>/passkey_text.json: the same kind
// of text the reference model was trained on, from an own random sequence. Filler sentences, with
// statements ("The pass key of abc is 12345. ") between them and questions about them.
// A parsed text is immutable; a PasskeyWriter belongs to one thread.
#ifndef LOLA_SERVICES_EVALUATE_PASSKEY_TEXT_H_
#define LOLA_SERVICES_EVALUATE_PASSKEY_TEXT_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace lola::evaluate {

struct PasskeyText {
  std::string statement;                       // with {name} and {digits}
  std::string question;                        // with {name}; a beginning of the statement
  std::string name_alphabet, digits_alphabet;  // two or more different ASCII letters
  uint32_t name_length = 0, digits_length = 0;
  uint64_t number_min = 0, number_max = 0;
  std::map<std::string, std::vector<std::string>, std::less<>> slots;
  std::vector<std::string> sentences, number_sentences;

  // INVALID_ARGUMENT naming the field and its value.
  static absl::StatusOr<PasskeyText> Parse(std::string_view json);
  static absl::StatusOr<PasskeyText> Load(const std::string& path);

  std::string Statement(std::string_view name, std::string_view digits) const;
  std::string Question(std::string_view name) const;
  size_t statement_bytes() const {
    return Statement(Spaces(name_length), Spaces(digits_length)).size();
  }
  size_t question_bytes() const { return Question(Spaces(name_length)).size(); }
  double names() const;  // how many different ones there are

 private:
  static std::string Spaces(size_t count) { return std::string(count, ' '); }
};

// One statement hidden in a document.
struct Needle {
  std::string name;
  std::string digits;
  uint64_t offset = 0;  // byte of the document where the statement begins
};

struct Document {
  std::string text;             // exactly the bytes asked for
  std::vector<Needle> needles;  // ascending offset, distinct names
};

// Draws documents. Deterministic: (text, seed) decide everything.
class PasskeyWriter {
 public:
  PasskeyWriter(const PasskeyText& text, uint64_t seed) : text_(text), state_(seed) {}

  // A document of `bytes` bytes. `depths` (0..1) say where statements stand: depth x of the stretch
  // that ends `margin` bytes before the document does, moved up to the next sentence. With
  // probability `number_share` a filler sentence holds other numbers. The front may be cut inside
  // a word. REQUIRES: bytes >= RoomFor(text, depths.size(), margin).
  Document Write(uint64_t bytes, std::vector<double> depths, uint64_t margin, double number_share);

  // One filler sentence, with other numbers at probability `number_share`; ends with a blank.
  std::string Filler(double number_share) { return Sentence(number_share); }

  // Uniform in [0, 1).
  double Uniform();
  uint64_t Below(uint64_t bound);

  // Bytes a document needs at least.
  static uint64_t RoomFor(const PasskeyText& text, size_t needles, uint64_t margin);

 private:
  std::string Letters(const std::string& alphabet, uint32_t length);
  std::string Sentence(double number_share);
  std::string FillSlots(const std::string& pattern);
  std::vector<Needle> MakeNeedles(size_t count);

  const PasskeyText& text_;
  uint64_t state_;
};

}  // namespace lola::evaluate

#endif  // LOLA_SERVICES_EVALUATE_PASSKEY_TEXT_H_
