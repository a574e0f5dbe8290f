// Client channels with the project's settings: keepalive 1 s with a 0.5 s watchdog (a dead peer is
// seen in about a second), reconnect after 100 ms up to 2 s, messages up to kMessageBytesMax.
// Safe from any thread.
#ifndef LOLA_SERVICES_RPC_CHANNEL_H_
#define LOLA_SERVICES_RPC_CHANNEL_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace grpc {
class Channel;
}  // namespace grpc

namespace lola::rpc {

class OptionSet;

struct ChannelOptions {
  std::string tls_ca;    // PEM file: verify the server against it; empty = plain text
  std::string tls_cert;  // PEM files of our own certificate for servers that ask for one
  std::string tls_key;
};

// --peer-tls-ca, --peer-tls-cert, --peer-tls-key.
void RegisterChannelOptions(OptionSet& set, ChannelOptions* options);

// What may be wrong when a server does not answer a channel made with these options: it closes the
// connection of a client whose certificate it misses or refuses without telling the reason.
std::string UnreachableHint(const ChannelOptions& options);

// Does not connect. Errors: INVALID_ARGUMENT naming the address, options that do not fit together
// or a file that is not PEM; NOT_FOUND naming a PEM file.
absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(const std::string& address,
                                                           const ChannelOptions& options = {});

}  // namespace lola::rpc

#endif  // LOLA_SERVICES_RPC_CHANNEL_H_
