"""Faults of what fetches experts when they are needed."""

from mutant import Mutant

OFFLOAD = "tests/test_offload.py"
COUNTERS = f"{OFFLOAD} -k TestCounters"
FILES = f"{OFFLOAD} -k TestFiles"
MASKS = f"{OFFLOAD} -k TestMasks"

MUTANTS = [
    Mutant(
        "moge_ops/offload/_pool.py",
        "self._free = deque(slot for slot in range(self.slots) if slot not in taken)",
        "pass",
        "Slots that an interrupted layer had taken are lost.",
        f"{OFFLOAD} -k interrupts_anywhere",
    ),
    Mutant(
        "moge_ops/offload/_store.py",
        "for e in range(E)] + [-1])",
        "for e in range(E)] + [0])",
        "A dropped id takes whatever lies in the first slot.",
        f"{OFFLOAD} -k dropped_ids_take",
    ),
    Mutant(
        "moge_ops/offload/_store.py",
        "        if self._in_place(x):",
        "        if True:",
        "Kernels whose bits depend on places multiply in the slots.",
        f"{OFFLOAD} -k places_in_the_pool",
    ),
    Mutant(
        "moge_ops/offload/_pool.py",
        "if key in self._whole and key not in kept:",
        "if key in self._whole:",
        "An expert that the running layer uses gives way to another.",
        f"{OFFLOAD} -k 'TestCounters or TestSameBits and float32'",
    ),
    Mutant(
        "moge_ops/offload/_pool.py",
        "self._room(self._held | self._wanted)",
        "self._room(self._held)",
        "Experts that were fetched ahead give way to others of the same layer.",
        f"{OFFLOAD} -k guesses_keep",
    ),
    Mutant(
        "moge_ops/offload/_reading.py",
        "        if rest or self._version(os.fstat(self.fd)) != self.version:",
        "        if rest:",
        "A file that changed in place is read on.",
        FILES,
    ),
    Mutant(
        "moge_ops/offload/_reading.py",
        "            offset += n\n",
        "",
        "A read that stops halfway goes on from the beginning.",
        FILES,
    ),
    Mutant(
        "moge_ops/offload/_store.py",
        "            if not bool(gating.weights[chosen].isnan().all()):",
        "            if False:",
        "An expert that is switched off is another one in silence.",
        MASKS,
    ),
    Mutant(
        "moge_ops/offload/_loading.py",
        "    if least < module.k:",
        "    if least < 0:",
        "A mask may leave a group fewer experts than its tokens take.",
        MASKS,
    ),
]
