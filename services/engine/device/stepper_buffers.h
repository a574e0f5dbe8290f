// Memory of a DeviceStepper: tables that go to the device before a step, activations, results.
// Internal to this folder.
#ifndef LOLA_SERVICES_ENGINE_DEVICE_STEPPER_BUFFERS_H_
#define LOLA_SERVICES_ENGINE_DEVICE_STEPPER_BUFFERS_H_

#include <cstddef>

#include "services/engine/device/device_stepper.h"

namespace lola::engine {

// Consecutive arrays in one block, at the same offsets on host and device.
class TableBlock {
 public:
  template <typename T>
  struct Table {
    T* host = nullptr;
    T* device = nullptr;
  };

  // Plan first: Reserve all tables, then Allocate, then At with the offsets given.
  size_t Reserve(size_t bytes) {
    const size_t offset = bytes_;
    bytes_ = (bytes_ + bytes + 255) / 256 * 256;
    return offset;
  }
  absl::Status Allocate(cuda::Device* device, const char* what) {
    absl::Status status = host_.Allocate(device, bytes_, what);
    if (status.ok()) status = device_.Allocate(device, bytes_, what);
    return status;
  }
  template <typename T>
  Table<T> At(size_t offset) const {
    return {reinterpret_cast<T*>(host_.data() + offset),
            reinterpret_cast<T*>(device_.data() + offset)};
  }
  std::byte* host() const { return host_.data(); }
  std::byte* device() const { return device_.data(); }
  size_t bytes() const { return bytes_; }

 private:
  size_t bytes_ = 0;
  PinnedBuffer host_;
  DeviceArray<std::byte> device_;
};

// What a step needs besides weights and states, allocated once.
struct DeviceStepper::Buffers {
  absl::Status Allocate(cuda::Device* device, const cuda::Shape& shape,
                        const StepperOptions& options, const DeviceWeights& weights);
  // Grows what depends on the settings of streams. May only be called between steps; recordings
  // made before are void when it answers true.
  absl::StatusOr<bool> Grow(cuda::Device* device, const cuda::Shape& shape, size_t rows_max,
                            const cuda::Sections& sections, uint32_t variants);

  // Host -> device, whole.
  TableBlock in;
  TableBlock::Table<cuda::Row> rows;               // [rows_max]
  TableBlock::Table<cuda::SegmentEntry> segments;  // [rows_max + 1]; the last one is for padding
  TableBlock::Table<cuda::Tile> tiles;             // [rows_max]
  TableBlock::Table<uint32_t> picks;               // [rows_max] rows whose logits are wanted
  TableBlock::Table<cuda::SampleRow> samples;      // [rows_max]
  // Host -> device, as far as a step fills them.
  TableBlock large;
  TableBlock::Table<float> cos, sin;      // [rows_max, d / 2]
  TableBlock::Table<cuda::Event> events;  // [rows_max * layers]
  DeviceArray<int32_t> recent;            // grown
  std::vector<int32_t> recent_host;

  // Device -> host.
  TableBlock out;
  TableBlock::Table<cuda::StepCounters> counters;  // [1]
  TableBlock::Table<uint32_t> broken;              // [rows_max + 1]
  TableBlock::Table<cuda::SampledRow> sampled;     // [rows_max]

  PinnedBuffer hidden;  // [rows_max, hidden] floats: rows that come or go; of a range of layers

  // Device only.
  DeviceArray<float> x;                  // [rows, hidden]
  DeviceArray<std::byte> normed;         // [rows, hidden]
  DeviceArray<float> qkv;                // [rows, (Hq + 2 Hkv) d]
  DeviceArray<float> features;           // [rows, Hq, F]
  DeviceArray<float> shares;             // [rows, Hq, 2]
  DeviceArray<std::byte> attended;       // [rows, Hq d]
  DeviceArray<float> gate_up;            // [rows, 2 ffn]
  DeviceArray<std::byte> inner;          // [rows, ffn]
  DeviceArray<std::byte> head_in;        // [logits_rows_max, hidden]
  DeviceArray<float> logits;             // [logits_rows_max, vocab]
  DeviceArray<float> adjusted;           // [logits_rows_max, vocab]
  DeviceArray<unsigned char> quantized;  // inputs of products with int8 weights
  DeviceArray<unsigned char> event_work;
  DeviceArray<float> queries;   // [rows, Hq, variants, d]
  DeviceArray<float> partials;  // [rows, Hq, sections, d + 2]
};

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_DEVICE_STEPPER_BUFFERS_H_
