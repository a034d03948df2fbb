// A communicator of ranks: processes of this machine, or threads of one, over shared memory.
#ifndef MOGE_NPU_HOST_COMM_H_
#define MOGE_NPU_HOST_COMM_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace npu_host {

// What a rank is about to do.
struct Call {
  char function[24];
  uint64_t bytes;  // of a rank; 0 where the ranks may differ
  int type, reduction;
  uint32_t root;
};

struct Shared;  // the memory that all ranks have

// A rank's view. What waits for other ranks throws std::runtime_error where one does not come.
class Comm {
 public:
  // A name for new shared memory; empty where there is none.
  static std::string Create();
  // Waits for all ranks; throws.
  Comm(const std::string& name, uint32_t rank, uint32_t ranks);
  ~Comm();
  Comm(const Comm&) = delete;
  Comm& operator=(const Comm&) = delete;

  const std::string name;
  const uint32_t rank, ranks;

  // Throws, on every rank, where the ranks are about to do different things.
  void Agree(const Call& call) const;

  // Both ways to exchange go in rounds of what fits into a rank's slot, with all ranks in step.

  // Every rank that `sends` has `bytes` at `data` for all to read. `take` gets where in the data
  // the round begins, and its length; rank r's are at Slot(r).
  void Publish(bool sends, const void* data, uint64_t bytes,
               const std::function<void(uint64_t offset, uint64_t length)>& take) const;

  // Every rank that `sends` has sizes[r] bytes at data + places[r] for each rank r, and no rank has
  // more than `most` for another. `take` gets where in each of these the round begins, and the most
  // of it that is there; what rank r has for this one is at Slot(r) + rank * length.
  void Distribute(bool sends, const void* data, const std::vector<uint64_t>& sizes,
                  const std::vector<uint64_t>& places, uint64_t most,
                  const std::function<void(uint64_t offset, uint64_t length)>& take) const;

  char* Slot(uint32_t of) const;

 private:
  void Meet() const;

  Shared* shared_;
};

}  // namespace npu_host

#endif  // MOGE_NPU_HOST_COMM_H_
