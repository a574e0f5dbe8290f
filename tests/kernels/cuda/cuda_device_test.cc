// The host side of the real device (kernels/cuda/cuda_device.cu, compiled for the host) on a
// runtime without a GPU: what it makes of answers, which hardware gives when it likes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/cuda/plugin.h"
#include "tests/kernels/cuda/fake_runtime.h"

extern "C" const lola::cuda::PluginEntry lola_cuda_plugin_v1;

namespace lola::cuda {
namespace {

using testing::HasSubstr;

class CudaDeviceTest : public testing::Test {
 protected:
  CudaDeviceTest() { fake::Reset(); }
  ~CudaDeviceTest() override {
    device_.reset();
    EXPECT_EQ(fake::It().objects, 0) << "made and not destroyed";
  }
  // What opening says; empty = open.
  std::string Open() {
    char error[256] = {};
    device_.reset(lola_cuda_plugin_v1.open({}, error, sizeof(error)));
    return error;
  }
  // Some operation of one launch.
  void Run() {
    float x = 0;
    device_->Norm({.x = &x, .weight = &x, .hidden = 1, .rows = 1, .out = &x});
  }
  void Multiply(size_t out, size_t in, MatrixType type) {
    device_->Gemm({.type = type, .rows = 3, .out = out, .in = in});
  }

  std::unique_ptr<Device> device_;
};

// The runtime keeps "not ready" as a thread's last error; a launch that follows is fine all the
// same.
TEST_F(CudaDeviceTest, AskingTooEarlyIsNoFailure) {
  ASSERT_EQ(Open(), "");
  fake::It().busy = true;
  const Mark mark = device_->Record(Queue::kCopy);
  EXPECT_FALSE(device_->Done(mark));
  Run();
  EXPECT_EQ(device_->error(), "");
  for (int i = 0; i < 600; ++i) device_->Record(Queue::kCompute);  // old marks are looked at
  Run();
  EXPECT_EQ(device_->error(), "");
  EXPECT_FALSE(device_->Done(mark));
  fake::It().busy = false;
  EXPECT_TRUE(device_->Done(mark));
  device_->Record(Queue::kCompute);
  EXPECT_LT(fake::It().objects, 300) << "events of marks that were passed are kept";
  EXPECT_TRUE(device_->Done(mark));
  EXPECT_EQ(fake::It().launches.size(), 2u);
}

// Kernels made for older devices do not wait for the kernel ahead themselves.
TEST_F(CudaDeviceTest, OnlyKernelsThatWaitStartEarly) {
  const struct {
    int compute_major, kernel_version, driver;
    bool early;
  } kCases[] = {{9, 90, 13000, true},  {10, 100, 13000, true}, {12, 100, 13000, true},
                {9, 80, 13000, false}, {8, 80, 13000, false},  {9, 90, 12020, false}};
  for (const auto& one : kCases) {
    fake::Reset();
    fake::It().compute_major = one.compute_major;
    fake::It().kernel_version = one.kernel_version;
    fake::It().driver = one.driver;
    ASSERT_EQ(Open(), "");
    Run();
    Run();
    ASSERT_EQ(fake::It().launches.size(), 2u);
    EXPECT_FALSE(fake::It().launches[0].early) << "no kernel is ahead";
    EXPECT_EQ(fake::It().launches[1].early, one.early) << one.compute_major << " " << one.driver;
    device_.reset();
    EXPECT_EQ(fake::It().objects, 0);
  }
}

// Copies and waits between two kernels are waited for as a whole, in their own queue.
TEST_F(CudaDeviceTest, KernelsStartEarlyOnlyBehindKernels) {
  ASSERT_EQ(Open(), "");
  char byte = 0;
  Run();
  const auto early_after = [&](const auto& between) {
    Run();
    EXPECT_TRUE(fake::It().launches.back().early);
    between();
    Run();
    return fake::It().launches.back().early;
  };
  EXPECT_FALSE(early_after([&] { device_->Upload(Queue::kCompute, &byte, &byte, 1); }));
  EXPECT_FALSE(early_after([&] { device_->Zero(Queue::kCompute, &byte, 1); }));
  EXPECT_FALSE(
      early_after([&] { device_->WaitFor(Queue::kCompute, device_->Record(Queue::kCopy)); }));
  EXPECT_TRUE(early_after([&] { device_->Download(Queue::kCopy, &byte, &byte, 1); }));
  EXPECT_TRUE(early_after([&] { Multiply(64, 64, MatrixType::kBFloat16); }));
  device_->RunOn(Queue::kScan);
  Run();
  EXPECT_FALSE(fake::It().launches.back().early) << "first in its queue";
  device_->RunOn(Queue::kCompute);
  Run();
  EXPECT_TRUE(fake::It().launches.back().early) << "what the other queue did does not matter";
}

TEST_F(CudaDeviceTest, DevicesWithoutKernelsAreRefusedAtOnce) {
  fake::It().kernel_version = 0;
  EXPECT_THAT(Open(), HasSubstr("no kernels for this device"));
  EXPECT_EQ(device_, nullptr);
  fake::Reset();
  fake::It().compute_major = 7;
  EXPECT_THAT(Open(), HasSubstr("needed is 8.0"));
}

TEST_F(CudaDeviceTest, FailuresAreKept) {
  ASSERT_EQ(Open(), "");
  const Mark mark = device_->Record(Queue::kCompute);
  fake::It().finished = cudaErrorIllegalAddress;
  device_->WaitOnHost(mark);
  EXPECT_EQ(device_->error(), "fake: device: failed");
  fake::It().finished = cudaSuccess;
  Run();
  Multiply(8, 8, MatrixType::kFloat32);
  EXPECT_EQ(device_->Allocate(16), nullptr);
  EXPECT_EQ(device_->Record(Queue::kCompute), 0u);
  EXPECT_TRUE(fake::It().launches.empty());
  EXPECT_EQ(fake::It().products, 0);
  EXPECT_EQ(device_->error(), "fake: device: failed");
}

TEST_F(CudaDeviceTest, LaunchesThatFailAreKept) {
  ASSERT_EQ(Open(), "");
  fake::It().launch = cudaErrorInvalidConfiguration;
  Run();
  EXPECT_EQ(device_->error(), "fake: launch: failed");
}

TEST_F(CudaDeviceTest, NoRoomIsAnAnswer) {
  ASSERT_EQ(Open(), "");
  fake::It().allocation = cudaErrorMemoryAllocation;
  EXPECT_EQ(device_->Allocate(16), nullptr);
  EXPECT_EQ(device_->AllocatePinned(16), nullptr);
  Run();
  EXPECT_EQ(device_->error(), "");
  fake::It().allocation = cudaErrorIllegalAddress;
  EXPECT_EQ(device_->Allocate(16), nullptr);
  EXPECT_EQ(device_->error(), "fake: allocate: failed");
}

TEST_F(CudaDeviceTest, RecordingsThatFailAreNotKept) {
  ASSERT_EQ(Open(), "");
  ASSERT_TRUE(device_->BeginRecording());
  Run();
  EXPECT_TRUE(fake::It().launches.back().recorded);
  const GraphId graph = device_->EndRecording();
  EXPECT_NE(graph, 0u);
  device_->Replay(graph);
  EXPECT_EQ(fake::It().replays, 1);

  ASSERT_TRUE(device_->BeginRecording());
  fake::It().launch = cudaErrorStreamCaptureUnsupported;
  Run();
  fake::It().launch = cudaSuccess;
  EXPECT_EQ(device_->EndRecording(), 0u) << "a recording without one of its kernels";
  fake::It().capture_end = cudaErrorStreamCaptureInvalidated;
  ASSERT_TRUE(device_->BeginRecording());
  EXPECT_EQ(device_->EndRecording(), 0u);
  EXPECT_FALSE(fake::It().capturing);
  Run();
  Run();
  EXPECT_EQ(device_->error(), "");
  EXPECT_FALSE(fake::It().launches.back().early);
  device_->Forget(graph);
}

// The library may count on no more than the row at which a lane begins has.
TEST_F(CudaDeviceTest, ProductsAskForTheAlignmentRowsHave) {
  ASSERT_EQ(Open(), "");
  const auto alignment = [](cublasLtMatmulPreferenceAttributes_t of) {
    return fake::It().alignments.at(of);
  };
  Multiply(4096, 4096, MatrixType::kBFloat16);
  EXPECT_EQ(alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES), 256u);
  EXPECT_EQ(alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES), 256u);
  EXPECT_EQ(alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES), 256u);
  Multiply(20, 72, MatrixType::kBFloat16);  // rows of 144 bytes in, of 80 out
  EXPECT_EQ(alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES), 256u);
  EXPECT_EQ(alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES), 16u);
  EXPECT_EQ(alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES), 16u);
  EXPECT_EQ(alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES), 16u);
  Multiply(3, 72, MatrixType::kFloat32);
  EXPECT_EQ(alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES), 32u);
  EXPECT_EQ(alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES), 4u);
  EXPECT_EQ(fake::It().products, 3);
  EXPECT_EQ(device_->error(), "");
}

}  // namespace
}  // namespace lola::cuda
