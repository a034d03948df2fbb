"""Faults of inheritance: which parts a small model takes, and how they are put together."""

from mutant import Mutant

TESTS = "tests/test_surgery_inherit.py -k "

MUTANTS = [
    Mutant(
        "moge_ops/surgery/_inherit.py",
        "weight = weight * (len(old.weight) / len(channels)) ** 0.5",
        "pass",
        "A norm divides by the mean over the small model's channels, and nothing makes up for it.",
        TESTS + "'zeros'",
    ),
    Mutant(
        "moge_ops/surgery/_inherit.py",
        "rows = torch.cat([place, A * D + keys, (A + C) * D + keys])",
        "rows = torch.cat([place, A * D + keys, A * D + keys])",
        "Values of the small model are keys of the large one.",
        TESTS + "'zeros or equal_sizes'",
    ),
    Mutant(
        "moge_ops/surgery/_inherit.py",
        "scores = scores[part.experts.to(scores.device)]",
        "scores = scores[: int(part.experts.sum())]",
        "An expert keeps the neurons that matter in another expert.",
        TESTS + "'zeros'",
    ),
    Mutant(
        "moge_ops/surgery/_importance.py",
        'found[f"{name}.attention.o.bias"] = _times(o.bias, h)',
        'found[f"{name}.attention.o.bias"] = o.bias',
        "A channel without weights still gets the bias of attention.",
        TESTS + "'first_order or formula'",
    ),
    Mutant(
        "moge_ops/surgery/_importance.py",
        "scores[name] -= rate * _per_mean(g, g)",
        "scores[name] += rate * _per_mean(g, g)",
        "Masks are learned uphill.",
        TESTS + "'formula'",
    ),
    Mutant(
        "moge_ops/surgery/_importance.py",
        "return mean[1:] - mean[0]",
        "return mean[0] - mean[1:]",
        "The layers that matter least stay.",
        TESTS + "'grows_by'",
    ),
]
