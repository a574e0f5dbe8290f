// Inner interface between the product's driver (gemm.cc) and its instruction sets. Not for callers.
//
// Rows are packed in blocks of R in {12, 8, 4, 2, 1} rows, largest first: block after block of
// [steps, R] elements, so that a tile reads its inputs from one stream. A step is one input
// (float32), two (bfloat16) or a group of 64 (int8); an element is a float, a pair of rounded
// floats, a bfloat16 pair or a quantised group, as the set wants it. Matrix tiles have a form of
// their own (gemm_bf16_tiles.cc).
#ifndef LOLA_KERNELS_GEMM_GEMM_KERNELS_H_
#define LOLA_KERNELS_GEMM_GEMM_KERNELS_H_

#include <cstddef>
#include <cstdint>

namespace lola::kernels {

// Steps worked on before the next row block takes its turn: a panel slice stays in the near caches.
inline constexpr size_t kStepsPerSlice = 256;
// Rows per pass over the weights; bounds the partial sums kept on a worker's stack.
inline constexpr size_t kRowsPerPass = 192;
// Panels a single row is multiplied with at once: several weight streams in flight.
inline constexpr size_t kPanelsInFlight = 4;

struct GemmKernels {
  size_t element_bytes;  // of a packed step of one row
  size_t step_multiple;  // a packed row has room for steps rounded up to this
  // Packs rows x in floats, rows `stride` apart.
  void (*pack)(const float* input, size_t stride, size_t rows, size_t in, void* packed);
  // sums[r * 32 + o] = product of packed row r and output o of the panel.
  void (*panel)(const void* packed, size_t rows, size_t steps, const std::byte* panel, float* sums);
  // The same for one row and `panels` <= kPanelsInFlight panels that lie panel_bytes apart.
  void (*single)(const void* packed, size_t steps, const std::byte* panel, size_t panel_bytes,
                 size_t panels, float* sums);
};

// The block that starts where `rows` rows are left.
constexpr size_t RowBlock(size_t rows, size_t row_block_max) {
  for (const size_t block : {12, 8, 4, 2}) {
    if (block <= row_block_max && rows >= block) return block;
  }
  return 1;
}

const GemmKernels& Float32Kernels();
const GemmKernels& BFloat16Kernels();      // portable: products of widened pairs
const GemmKernels* BFloat16DotKernels();   // the processor's dot instruction, or null
const GemmKernels* BFloat16TileKernels();  // its matrix tiles, or null
const GemmKernels& Int8Kernels();          // portable: whole numbers in floats, exact
const GemmKernels* Int8DotKernels();       // the processor's byte dot instruction, or null

// A row's group of up to kInt8Group inputs, quantised as gemm.h says.
struct Int8GroupInfo {
  float step;      // not finite when an input is not
  int32_t offset;  // -128 * sum of p: undoes the 128 that the packed weights carry
};
// Writes kInt8Group values p, zeros behind the n-th.
Int8GroupInfo QuantizeGroup(const float* x, size_t n, int8_t* p);

}  // namespace lola::kernels

#endif  // LOLA_KERNELS_GEMM_GEMM_KERNELS_H_
