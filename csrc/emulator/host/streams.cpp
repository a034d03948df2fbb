// Copies and results that a stream has not been waited for.
#include "streams.h"

#include <cstdint>
#include <cstring>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "device_memory.h"

namespace emulator::host {

namespace {

struct Landing {
  void* to;
  std::vector<uint8_t> data;
};

struct Stream {
  std::vector<Landing> landings;
  std::set<const void*> earlier;
};

std::map<const void*, Stream>& Streams() {
  static auto& streams = *new std::map<const void*, Stream>;
  return streams;
}

}  // namespace

void CopyWhenWaited(void* to, const void* from, size_t bytes, const void* stream) {
  const auto* const data = static_cast<const uint8_t*>(from);
  Streams()[stream].landings.push_back({to, {data, data + bytes}});
}

void Join(const void* stream, const void* earlier) {
  if (stream != earlier) Streams()[stream].earlier.insert(earlier);
}

void Wait(const void* stream) {
  for (auto& [address, block] : Blocks()) {
    if (block.stream == stream) block.writer.clear();
  }
  const auto found = Streams().find(stream);
  if (found == Streams().end()) return;
  const Stream waited = std::move(found->second);
  Streams().erase(found);  // first: streams may wait for each other
  for (const void* const earlier : waited.earlier) Wait(earlier);
  for (const Landing& landing : waited.landings) {
    std::memcpy(landing.to, landing.data.data(), landing.data.size());
  }
}

void WaitForAll() {
  for (auto& [address, block] : Blocks()) block.writer.clear();
  while (!Streams().empty()) Wait(Streams().begin()->first);
}

bool HasCopies(const void* stream) {
  const auto found = Streams().find(stream);
  return found != Streams().end() && !found->second.landings.empty();
}

}  // namespace emulator::host
