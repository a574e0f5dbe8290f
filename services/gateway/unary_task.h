// A unary call answered from the task pool: check, do, map, reply.
#ifndef LOLA_SERVICES_GATEWAY_UNARY_TASK_H_
#define LOLA_SERVICES_GATEWAY_UNARY_TASK_H_

#include <grpcpp/grpcpp.h>

#include <utility>

#include "services/gateway/gateway_stats.h"
#include "services/gateway/task_pool.h"
#include "services/rpc/status_map.h"

namespace lola::gateway {

// `check` runs in the callback and must not block; `work(context)` returns absl::StatusOr<Reply>,
// runs on the pool, unless the caller has gone while it waited there. `request` and `reply` live
// until the reactor finishes.
template <typename Reply, typename Check, typename Work>
grpc::ServerUnaryReactor* RunUnary(grpc::CallbackServerContext* context, TaskPool& pool,
                                   GatewayCounts& counts, Reply* reply, Check check, Work work) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  ++counts.operator_calls;
  absl::Status status = check();
  if (status.ok()) {
    const bool queued = pool.Submit([=, &counts]() mutable {
      decltype(work(context)) result = absl::CancelledError("the caller went away");
      if (!context->IsCancelled()) result = work(context);
      if (result.ok()) {
        *reply = *std::move(result);
      } else {
        ++counts.operator_failures;
      }
      reactor->Finish(rpc::ToGrpc(result.status()));
    });
    if (queued) return reactor;
    status = absl::ResourceExhaustedError("too many calls wait at this gateway; try again");
    rpc::SetDetail(status, rpc::kRetryAfterMsDetail, "200");
  }
  ++counts.operator_failures;
  reactor->Finish(rpc::ToGrpc(status));
  return reactor;
}

}  // namespace lola::gateway

#endif  // LOLA_SERVICES_GATEWAY_UNARY_TASK_H_
