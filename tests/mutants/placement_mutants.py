"""Faults of what decides where experts and tokens are, and of the exchange by node."""

from mutant import Mutant

PLACEMENT = "tests/test_placement.py"
TWO_RANKS = "tests/test_distributed.py -k 'gloo and 4-'"

MUTANTS = [
    Mutant(
        "moge_ops/placement.py",
        "gain = gain + gain.T - 2.0 * pairs",
        "gain = gain + gain.T",
        "Two experts that meet often count as parted by a swap.",
        PLACEMENT,
    ),
    Mutant(
        "moge_ops/placement.py",
        "gain = gain.masked_fill(~same_group | (device.unsqueeze(1) == device), 0.0)",
        "gain = gain.masked_fill(device.unsqueeze(1) == device, 0.0)",
        "An expert leaves its group.",
        PLACEMENT,
    ),
    Mutant(
        "moge_ops/placement.py",
        "        cycle = _best_cycle(gain)\n",
        "        cycle = []\n",
        "Tokens stay where the first round has put them.",
        PLACEMENT,
    ),
    Mutant(
        "moge_ops/statistics.py",
        "            hits = hits * row_mask.unsqueeze(1)\n",
        "            pass\n",
        "Padding counts among the pairs.",
        PLACEMENT,
    ),
    Mutant(
        "moge_ops/distributed/top_k.py",
        "used = (ids >= 0).any(2)",
        "used = (ids >= 0).all(2)",
        "A node gets only the tokens that have all their experts there.",
        TWO_RANKS,
    ),
    Mutant(
        "moge_ops/distributed/top_k.py",
        "routing = route(torch.where(used, node.view(1, M), -1).int(), M)",
        "routing = route(node.view(1, M).expand(T, M).contiguous().int(), M)",
        "Every token goes to every node, so that more bytes travel than counted.",
        TWO_RANKS,
    ),
    Mutant(
        "examples/pangu_ultra.py",
        "far = reached.scatter(1, node, False)",
        "far = reached",
        "A token is sent to its own node.",
        "tests/test_pangu_ultra.py",
    ),
    Mutant(
        "examples/speculative_moe.py",
        "visits, loads = work.clamp_max(1.0), work.sum(0)",
        "visits, loads = work, work.sum(0)",
        "A token goes to a device once for each expert there.",
        "tests/test_speculative_moe.py -k hand",
    ),
]
