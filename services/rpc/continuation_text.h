// How a stream goes on at a worker, in words. Any thread.
#ifndef LOLA_SERVICES_RPC_CONTINUATION_TEXT_H_
#define LOLA_SERVICES_RPC_CONTINUATION_TEXT_H_

#include <string>

#include "lola/v1/inference.pb.h"

namespace lola::rpc {

// "computed by avx512bf16, goes on with avx2: from the same bytes, equal to a tolerance, not to the
// bit"; empty where it goes on exactly, or nobody knows.
std::string ContinuationText(const v1::RestoreReport& report);

}  // namespace lola::rpc

#endif  // LOLA_SERVICES_RPC_CONTINUATION_TEXT_H_
