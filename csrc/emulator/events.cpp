// What a kernel does, told once: each event reaches the clocks, the counters and the trace here.
#include <algorithm>

#include "core.h"
#include "figures.h"

namespace emulator {

void Core::Begin(Op next, pipe_t on) {
  op = next;
  pipe = on;
  style.final_barrier = false;
  lacks_data = false;
  if (next != Op::kDataCachePreload) preloads = 0;
  CheckFields(*this);
  if (!Has(on))
    Fail(Rule::kCorePipe, "%s core has no pipe %s", IsCube() ? "a cube" : "a vector", PipeName(on));
  if (++instructions_ > machine.options.max_instructions) {
    Fail(Rule::kEndless, "%llu instructions were not enough",
         Number(machine.options.max_instructions));
  }
  clocks_.Step(pipe);
  if (trace_) trace_->Issue(IssueCycles());
}

// An instruction whose time is known: that of a transfer from or to global memory is not. It is
// counted with what the tables give; waits are of the model of time only.
void Core::Account(uint64_t bytes, double cycles, double waits) {
  polls.fruitless = 0;
  counts_.pipes[pipe].Add({1, bytes, cycles});
  if (trace_) trace_->Work(pipe, op, HeadCycles(op, pipe) + cycles + waits);
}

void Core::Move(Path path, uint64_t pieces, uint64_t piece_bytes) {
  Move(path, pieces, piece_bytes, LocalMoveCycles(path, pieces * piece_bytes));
}

void Core::Move(Path path, uint64_t pieces, uint64_t piece_bytes, double cycles) {
  counts_.paths[static_cast<int>(path)].Add(pieces, piece_bytes);
  Account(pieces * piece_bytes, cycles);
}

void Core::Move(Path path, const GlobalRef& ref, const Traffic& traffic) {
  const bool writes = pipe != PIPE_MTE2;
  counts_.paths[static_cast<int>(path)].Add(traffic.rows, traffic.row_bytes);
  if (traffic.rows == 0 || traffic.row_bytes == 0) return Account(0, 0);
  Advise(ref, traffic);
  counts_.pipes[pipe].Add({1, traffic.rows * traffic.row_bytes, 0});
  polls.fruitless = 0;
  if (ref.allocation < 0) return;  // the check of the access will refuse it
  GlobalCounters& counters = counts_.global[ref.allocation];
  (writes ? counters.written : counters.read) += traffic.bytes;
  if (!trace_) return;
  const GlobalMemory& memory = machine.globals[ref.allocation];
  const bool touching = traffic.pitch == traffic.row_bytes;  // then all rows are one
  const Transfer transfer{memory.place + static_cast<uint64_t>(ref.address - memory.begin()),
                          traffic.pitch,
                          static_cast<uint32_t>(touching ? 1 : traffic.rows),
                          static_cast<uint32_t>(traffic.row_bytes * (touching ? traffic.rows : 1)),
                          writes,
                          ref.bypass};
  trace_->Move(pipe, op, MoveCycles(traffic.nd_to_nz, pipe, transfer.rows), transfer);
}

void Core::FillBytes(uint64_t bytes) { Account(bytes, 0); }

void Core::Compute(DType dtype, const Lanes& lanes, double banks) {
  VectorCounters& counters = counts_.vectors[static_cast<int>(op)][static_cast<int>(dtype)];
  counters.Add({1, lanes.repeats, lanes.elements});
  const double cycles = VectorCycles(op, dtype, lanes.repeats, lanes.elements);
  Account(0, cycles, std::max(0.0, banks - cycles));
}

void Core::Multiply(DType dtype, const ProductCounters& work) {
  counts_.products[static_cast<int>(dtype)].Add(work);
  Account(0, static_cast<double>(work.cycles));
}

void Core::AccessScalar(ScalarAccess access, bool missed) {
  ++counts_.scalars[static_cast<int>(access)];
  if (access == ScalarAccess::kGmSet || access == ScalarAccess::kUbSet) polls.fruitless = 0;
  if (!trace_ || access == ScalarAccess::kGmSet) return;  // a store to the cache takes no time
  // the compiler lets the scalar unit wait for the vector pipe before it touches UB
  const bool of_ub = access != ScalarAccess::kGmGet;
  if (of_ub && !machine.options.strict && !IsCube()) trace_->Finish(PIPE_V, op);
  trace_->Work(PIPE_S, op, ScalarCycles(missed));
}

void Core::TakeTurn(uint32_t unit, bool follows, bool gives) {
  if (trace_) trace_->Unit(unit, follows, gives);
}

Signal Core::Set(pipe_t source) {
  return {clocks_.Seen(source), trace_ ? trace_->Set(source) : kNone};
}

void Core::Wait(pipe_t source, pipe_t destination, const Signal& signal) {
  clocks_.Join(destination, signal.clock);
  ++counts_.waits[source][destination];
  if (trace_) trace_->Wait(destination, signal.number);
}

void Core::PassBarrier(pipe_t of) {
  ++counts_.barriers[of];
  if (of == PIPE_S) return;
  if (of == PIPE_ALL) {
    clocks_.JoinAll();
    style.final_barrier = true;
    if (trace_) trace_->Finish(PIPE_ALL, op);
  } else {
    clocks_.PassBarrier(of);
    if (trace_) trace_->Settle(of);
  }
}

Knowledge Core::MeetAll(uint32_t cores) {
  ++counts_.sync_alls;
  if (trace_) trace_->SyncAll(cores);
  // its flag is set when what the core writes with is done
  return clocks_.Tell(IsCube() ? PIPE_FIX : PIPE_MTE3, machine.cores.size());
}

void Core::Synchronise() {
  clocks_.JoinAll();
  if (trace_) trace_->Finish(PIPE_ALL, op);
}

Message Core::SetCross(pipe_t of) {
  ++counts_.cross_sets;
  const uint32_t number = machine.messages++;
  if (trace_) trace_->CrossSet(of, number);
  return {clocks_.Tell(of, machine.cores.size()), number};
}

void Core::WaitCross(const Message& message) {
  ++counts_.cross_waits;
  Learn(message.known);
  if (trace_) trace_->CrossWait(message.number);
}

void Core::Occupy(Memory memory, uint32_t bytes) {
  uint32_t& peak = counts_.peaks[static_cast<int>(memory)];
  peak = std::max(peak, bytes);
}

}  // namespace emulator
