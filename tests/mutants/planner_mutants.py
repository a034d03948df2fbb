"""Faults of the planner: counts, times, and the search."""

from mutant import Mutant

PLANS = "tests/test_planner.py -k 'brute_force or hand or parameters or stage'"
MEASURED = "tests/test_planner_memory.py"

MUTANTS = [
    Mutant(
        "moge_ops/planner/_memory.py",
        "    return gate + routing + arrived + rows * 2 * F * item + tokens * 3 * shared * item",
        "    return gate + routing + arrived + rows * F * item + tokens * 3 * shared * item",
        "Half of the pre-activations that the backward pass needs are counted.",
        MEASURED,
    ),
    Mutant(
        "moge_ops/planner/_memory.py",
        "    return -(-shape[0] // parts) * math.prod(shape[1:])",
        "    return -(-math.prod(shape) // parts)",
        "FSDP2 is taken to split elements and not rows.",
        MEASURED,
    ),
    Mutant(
        "moge_ops/planner/_memory.py",
        "        activations=kept * min(micro_batches, pp - stage),",
        "        activations=kept,",
        "A stage keeps one micro-batch, though several are under way.",
        PLANS,
    ),
    Mutant(
        "moge_ops/planner/_time.py",
        "        bubble=(layout.pp - 1) * pace,",
        "        bubble=layout.pp * pace,",
        "The pipeline waits for a micro-batch more than it has stages to fill.",
        PLANS,
    ),
    Mutant(
        "moge_ops/planner/_layout.py",
        "                for heads in sorted({1, ep, ranks // ep}):",
        "                for heads in sorted({1, ep}):",
        "Attention is never split along the width of the experts.",
        PLANS,
    ),
    Mutant(
        "moge_ops/planner/_search.py",
        "        last = attempt(most + 1)",
        "        last = attempt(max(1, most))",
        "The batch is one smaller than the memory allows.",
        "tests/test_planner.py -k largest_batch",
    ),
]
