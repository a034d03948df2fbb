"""Faults of the choice of the expert that makes room."""

from mutant import Mutant

STORE = "tests/test_offload.py tests/test_offload_bench.py -k 'of_the_rule or by_hand'"

MUTANTS = [
    Mutant(
        "moge_ops/offload/_demand.py",
        "self._now - 1) % layers + 1",
        "self._now) % layers + 1",
        "The layer that runs now is taken for the next one.",
        STORE,
    ),
    Mutant(
        "moge_ops/offload/_demand.py",
        "self._uses[layer].mul_(AGEING)",
        "self._uses[layer].mul_(1.0)",
        "Uses do not age while visits do.",
        STORE,
    ),
    Mutant(
        "moge_ops/offload/_demand.py",
        "wait = (rest[:, None]",
        "wait = -(rest[:, None]",
        "The expert that is needed soonest makes room.",
        STORE,
    ),
    Mutant(
        "moge_ops/offload/_demand.py",
        "(uses + 0.5)",
        "(uses + 0.6)",
        "An expert that was never chosen counts as more than half a use.",
        STORE,
    ),
    Mutant(
        "moge_ops/offload/_pool.py",
        "self._demand.visit(keys)",
        "pass",
        "Nothing is counted.",
        STORE,
    ),
]
