// Where in the program an error was thrown.
#ifndef MOGE_EMULATOR_HOST_PLACES_H_
#define MOGE_EMULATOR_HOST_PLACES_H_

#include <string>
#include <vector>

namespace emulator::host {

// "file:line in function" of the calls of a backtrace that are the program's own, innermost first.
// Needs -g and addr2line; without them there are none. `header` is host.h as the program found it,
// beside which are the emulator's other headers.
std::vector<std::string> Places(const std::vector<void*>& trace, const std::string& header);

}  // namespace emulator::host

#endif  // MOGE_EMULATOR_HOST_PLACES_H_
