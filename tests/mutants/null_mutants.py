"""Faults of null experts: their loss, their layer, and what is counted of them."""

from mutant import Mutant

NULL = "tests/test_null_experts.py -k '{}'"

MUTANTS = [
    Mutant(
        "moge_ops/ops/load_balance_loss.py",
        "shared = null.mean(1, keepdim=True).expand_as(null)",
        "shared = null",
        "The loss asks for equal loads among null experts.",
        NULL.format("loss"),
    ),
    Mutant(
        "moge_ops/ops/load_balance_loss.py",
        "null.mean(1, keepdim=True)",
        "null.mean()",
        "Groups share one load of null experts.",
        NULL.format("loss_is_that_of_float64"),
    ),
    Mutant(
        "moge_ops/_null.py",
        "true = (ids >= 0) & (ids < num_outputs) & (ids % n < P)",
        "true = (ids >= 0) & (ids < num_groups * P)",
        "Null outputs of the first groups are taken for experts.",
        NULL.format("in_steps"),
    ),
    Mutant(
        "moge_ops/_null.py",
        "    if renormalize:\n        total = weights.sum(1, keepdim=True)\n",
        "    if renormalize:\n        total = gating.weights.sum(1, keepdim=True)\n",
        "Null experts take a share of the weights.",
        NULL.format("in_steps"),
    ),
    Mutant(
        "moge_ops/_null.py",
        "weights = gating.weights.masked_fill(null, 0.0)",
        "weights = gating.weights",
        "A null slot has a weight.",
        NULL.format("in_steps"),
    ),
    Mutant(
        "moge_ops/nn.py",
        "_null.with_null(mask, G, n)",
        "F.pad(mask, (0, G * n))",
        "A mask of experts switches null ones off, and others than those named.",
        NULL.format("mask"),
    ),
    Mutant(
        "moge_ops/surgery/_layers.py",
        "(experts[:, :1] // P * (P + n)",
        "(torch.arange(G, device=index.device)[:, None] * (P + n)",
        "Groups trade experts, but not the rows of the router.",
        NULL.format("permutation"),
    ),
    Mutant(
        "moge_ops/statistics.py",
        "new.scatter_add_(0, taken.sum(1), rows.double())",
        "new.scatter_add_(0, taken.sum(1), torch.ones_like(rows, dtype=torch.float64))",
        "Padding counts among the tokens.",
        NULL.format("statistics"),
    ),
    Mutant(
        "moge_ops/statistics.py",
        "return  # sums of an old file, whose tokens are not known: a part would mislead",
        "pass",
        "Tokens of a part of the batches pass for all.",
        NULL.format("old_file"),
    ),
]
