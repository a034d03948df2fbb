// TPipe, TQue, TQueBind and TBuf.
#ifndef MOGE_EMULATOR_PIPE_H_
#define MOGE_EMULATOR_PIPE_H_

#include "tensor.h"

namespace AscendC {

class TPipe;

// Buffers between the pipe that fills position `source` and the one that empties `destination`.
template <TPosition source, TPosition destination, int32_t depth, auto mask = 0>
class TQueBind {
 public:
  template <typename T>
  LocalTensor<T> AllocTensor() {
    return LocalTensor<T>(emulator::QueueAlloc(id_));
  }
  template <typename T>
  void AllocTensor(LocalTensor<T>& tensor) {
    tensor = AllocTensor<T>();
  }
  template <typename T>
  void FreeTensor(LocalTensor<T>& tensor) {
    emulator::QueueFree(id_, tensor.Ref());
  }
  template <typename T>
  bool EnQue(const LocalTensor<T>& tensor) {
    emulator::QueuePush(id_, tensor.Ref());
    return true;
  }
  template <typename T>
  LocalTensor<T> DeQue() {
    return LocalTensor<T>(emulator::QueuePop(id_));
  }
  template <typename T>
  void DeQue(LocalTensor<T>& tensor) {
    tensor = DeQue<T>();
  }
  bool VacantInQue() const {
    const emulator::QueueCounts counts = emulator::CountQueue(id_);
    return counts.enqueued < counts.depth;
  }
  bool HasTensorInQue() const { return emulator::CountQueue(id_).enqueued > 0; }
  int32_t GetTensorCountInQue() const { return emulator::CountQueue(id_).enqueued; }
  bool HasIdleBuffer() const { return emulator::CountQueue(id_).idle > 0; }

 private:
  friend class TPipe;

  int32_t id_ = -1;
};

// One position: the pipes that fill and empty it follow from it.
template <TPosition position, int32_t depth, auto mask = 0>
class TQue : public TQueBind<position, position, depth, mask> {};

template <TPosition position = TPosition::VECCALC>
class TBuf {
 public:
  template <typename T>
  LocalTensor<T> Get() {
    return LocalTensor<T>(emulator::BufGet(id_, 0, true));
  }
  template <typename T>
  LocalTensor<T> Get(uint32_t size) {
    return LocalTensor<T>(emulator::BufGet(id_, uint64_t{size} * sizeof(T), false));
  }

 private:
  friend class TPipe;

  uint32_t id_ = 0;
};

class TPipe {
 public:
  TPipe() { emulator::PipeConstruct(this); }
  ~TPipe() { emulator::PipeDestruct(this); }
  TPipe(const TPipe&) = delete;
  TPipe& operator=(const TPipe&) = delete;

  template <TPosition source, TPosition destination, int32_t depth, auto mask>
  bool InitBuffer(TQueBind<source, destination, depth, mask>& queue, emulator::U8 number,
                  uint32_t bytes) {
    queue.id_ = emulator::InitQueue(source, destination, depth, number, bytes);
    return true;
  }
  template <TPosition position>
  bool InitBuffer(TBuf<position>& buffer, uint32_t bytes) {
    buffer.id_ = emulator::InitBuf(position, bytes);
    return true;
  }
  void Reset() { emulator::PipeReset(); }
  template <HardEvent event>
  int32_t AllocEventID() {
    return emulator::AllocEvent(event);
  }
  template <HardEvent event>
  void ReleaseEventID(int32_t id) {
    emulator::ReleaseEvent(event, id);
  }
  int32_t FetchEventID(HardEvent event) { return emulator::FetchEvent(event); }
  template <HardEvent event>
  int32_t FetchEventID() {
    return emulator::FetchEvent(event);
  }
};

inline TPipe* GetTPipePtr() { return static_cast<TPipe*>(emulator::CurrentPipe()); }

}  // namespace AscendC

#endif  // MOGE_EMULATOR_PIPE_H_
