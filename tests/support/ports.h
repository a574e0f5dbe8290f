// Ports for test servers that nobody else gets.
//
// "Bind port 0, look, close" is not enough: until the server binds the port, the kernel may give it
// to any outgoing connection or to another server that asks for port 0, and after kill -9 it may do
// so again. These ports lie below the kernel's range for such requests, and a lock file per port
// keeps test programs that run side by side apart. Any thread.
#ifndef LOLA_TESTS_SUPPORT_PORTS_H_
#define LOLA_TESTS_SUPPORT_PORTS_H_

namespace lola::testing {

// A loopback TCP port that belongs to this program until it ends. Aborts when none is left.
int ReservePort();

}  // namespace lola::testing

#endif  // LOLA_TESTS_SUPPORT_PORTS_H_
