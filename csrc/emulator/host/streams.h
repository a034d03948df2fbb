// What the host may know of work that it gave to a stream. The work is done at once, but as on a
// device the host sees neither its copies nor its results before it has waited for the stream.
#ifndef MOGE_EMULATOR_HOST_STREAMS_H_
#define MOGE_EMULATOR_HOST_STREAMS_H_

#include <cstddef>

namespace emulator::host {

// What lies at `from` now reaches `to` when the host waits for the stream.
void CopyWhenWaited(void* to, const void* from, size_t bytes, const void* stream);
// Work of `stream` that follows comes after all that was given to `earlier` until now.
void Join(const void* stream, const void* earlier);
// The host waits for a stream, or for all of them.
void Wait(const void* stream);
void WaitForAll();
// Whether copies to the host wait on the stream.
bool HasCopies(const void* stream);

}  // namespace emulator::host

#endif  // MOGE_EMULATOR_HOST_STREAMS_H_
