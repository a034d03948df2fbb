// TPipe: hands out local memory and event ids.
#ifndef MOGE_EMULATOR_PIPE_H_
#define MOGE_EMULATOR_PIPE_H_

#include <tuple>

#include "pool.h"

namespace AscendC {

namespace Std {
using std::get;
using std::make_tuple;
using std::tuple;
}  // namespace Std

using TEventID = int8_t;

class TPipe {
 public:
  TPipe() { emulator::PipeConstruct(this); }
  ~TPipe() { emulator::PipeDestruct(this); }
  TPipe(const TPipe&) = delete;
  TPipe& operator=(const TPipe&) = delete;

  void Init() { emulator::PipeInit(this); }
  void Destroy() { emulator::PipeDestroy(this, true); }
  void DestroyWithoutPipeAll() { emulator::PipeDestroy(this, false); }
  void Reset() { emulator::PipeReset(); }

  template <TPosition source, TPosition destination, int32_t depth, auto mask>
  bool InitBuffer(TQueBind<source, destination, depth, mask>& queue, emulator::U8 number,
                  uint32_t bytes) {
    emulator::BufferAccess::Init(queue, 0, number, bytes);
    return true;
  }
  // each buffer at its own address: pairs of an address and a length
  template <TPosition source, TPosition destination, int32_t depth, auto mask, typename Address,
            typename Length, typename... Places>
  bool InitBuffer(TQueBind<source, destination, depth, mask>& queue,
                  const Std::tuple<Address, Length>& first, const Places&... places) {
    emulator::BufferAccess::Init(queue, 0, 0, 0);
    const auto add = [&](const auto& place) {
      emulator::BufferAccess::Add(queue, static_cast<uint32_t>(Std::get<0>(place)),
                                  static_cast<uint32_t>(Std::get<1>(place)));
    };
    add(first);
    (add(places), ...);
    return true;
  }
  template <TPosition position>
  bool InitBuffer(TBuf<position>& buffer, uint32_t bytes) {
    emulator::BufferAccess::Init(buffer, 0, bytes);
    return true;
  }
  template <typename Pool>
  bool InitBufPool(Pool& pool, uint32_t bytes) {
    emulator::StartPool(pool, 0, bytes);
    return true;
  }
  template <typename Pool, typename Other>
  bool InitBufPool(Pool& pool, uint32_t bytes, Other& shared) {
    emulator::StartPool(pool, 0, bytes, shared);
    return true;
  }

  template <HardEvent event>
  TEventID AllocEventID() {
    return static_cast<TEventID>(emulator::AllocEvent(event));
  }
  template <HardEvent event>
  void ReleaseEventID(TEventID id) {
    emulator::ReleaseEvent(event, id);
  }
  TEventID FetchEventID(HardEvent event) {
    return static_cast<TEventID>(emulator::FetchEvent(event));
  }
  template <HardEvent event>
  TEventID FetchEventID() {
    return FetchEventID(event);
  }
};

// All that is left of a position's memory; true, as there is always a tensor.
template <typename T, TPosition position>
bool PopStackBuffer(LocalTensor<T>& rest) {
  rest = LocalTensor<T>(emulator::PipeRest(position));
  return true;
}

}  // namespace AscendC

inline AscendC::TPipe* GetTPipePtr() {
  return static_cast<AscendC::TPipe*>(emulator::CurrentPipe());
}

#endif  // MOGE_EMULATOR_PIPE_H_
