// A device that hands everything on to another one, for tests that change one thing about it.
#ifndef LOLA_TESTS_SERVICES_ENGINE_DEVICE_FORWARDING_DEVICE_H_
#define LOLA_TESTS_SERVICES_ENGINE_DEVICE_FORWARDING_DEVICE_H_

#include <memory>
#include <string>
#include <utility>

#include "kernels/cuda/device.h"

namespace lola::engine {

class ForwardingDevice : public cuda::Device {
 public:
  explicit ForwardingDevice(cuda::Device* inner) : inner_(inner) {}

  cuda::DeviceInfo info() const override { return inner_->info(); }
  std::string error() const override { return inner_->error(); }
  void* Allocate(size_t bytes) override { return inner_->Allocate(bytes); }
  void Free(void* data) override { inner_->Free(data); }
  void* AllocatePinned(size_t bytes) override { return inner_->AllocatePinned(bytes); }
  void FreePinned(void* data) override { inner_->FreePinned(data); }
  void Upload(cuda::Queue queue, void* to, const void* from, size_t bytes) override {
    inner_->Upload(queue, to, from, bytes);
  }
  void Download(cuda::Queue queue, void* to, const void* from, size_t bytes) override {
    inner_->Download(queue, to, from, bytes);
  }
  void Zero(cuda::Queue queue, void* data, size_t bytes) override {
    inner_->Zero(queue, data, bytes);
  }
  void CopyWithin(cuda::Queue queue, void* to, const void* from, size_t bytes) override {
    inner_->CopyWithin(queue, to, from, bytes);
  }
  cuda::Mark Record(cuda::Queue queue) override { return inner_->Record(queue); }
  void WaitFor(cuda::Queue queue, cuda::Mark mark) override { inner_->WaitFor(queue, mark); }
  bool Done(cuda::Mark mark) override { return inner_->Done(mark); }
  void WaitOnHost(cuda::Mark mark) override { inner_->WaitOnHost(mark); }
  bool BeginRecording() override { return inner_->BeginRecording(); }
  cuda::GraphId EndRecording() override { return inner_->EndRecording(); }
  void Replay(cuda::GraphId graph) override { inner_->Replay(graph); }
  void Forget(cuda::GraphId graph) override { inner_->Forget(graph); }
  void RunOn(cuda::Queue queue) override { inner_->RunOn(queue); }
  void Gemm(const cuda::GemmCall& call) override { inner_->Gemm(call); }
  void Embed(const cuda::Row* rows, size_t count, const void* table, const float* scales,
             cuda::MatrixType type, uint32_t hidden, float* x) override {
    inner_->Embed(rows, count, table, scales, type, hidden, x);
  }
  void Norm(const cuda::NormCall& call) override { inner_->Norm(call); }
  void Swiglu(const float* gate_up, size_t rows, uint32_t ffn, cuda::MatrixType type,
              void* out) override {
    inner_->Swiglu(gate_up, rows, ffn, type, out);
  }
  void Queries(const cuda::QueryParams& params, size_t rows) override {
    inner_->Queries(params, rows);
  }
  void Push(const cuda::PushParams& params, size_t tiles) override { inner_->Push(params, tiles); }
  void Attend(const cuda::AttendParams& params, size_t tiles, bool single) override {
    inner_->Attend(params, tiles, single);
  }
  void Masses(const cuda::AttendParams& params, size_t tiles, bool single) override {
    inner_->Masses(params, tiles, single);
  }
  void Combine(const cuda::CombineParams& params, size_t rows, cuda::MatrixType type,
               void* out) override {
    inner_->Combine(params, rows, type, out);
  }
  void RunEvents(const cuda::EventParams& params, size_t events) override {
    inner_->RunEvents(params, events);
  }
  void Sample(const cuda::SampleParams& params, size_t rows) override {
    inner_->Sample(params, rows);
  }

 private:
  const std::unique_ptr<cuda::Device> inner_;
};

}  // namespace lola::engine

#endif  // LOLA_TESTS_SERVICES_ENGINE_DEVICE_FORWARDING_DEVICE_H_
