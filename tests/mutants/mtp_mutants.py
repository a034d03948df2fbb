"""Faults of the heads that predict further tokens: formula, loss, drafting and files."""

from mutant import Mutant

LOSS = "tests/test_mtp.py -k 'formula or padding or left_out'"
DRAFT = "tests/test_mtp.py -k 'greedy_tokens and uneven'"

MUTANTS = [
    Mutant(
        "moge_ops/models/mtp.py",
        "[self.enorm(embedded), self.hnorm(hidden)]",
        "[self.hnorm(hidden), self.enorm(embedded)]",
        "The halves of eh_proj are not those of the released files.",
        LOSS,
    ),
    Mutant(
        "moge_ops/models/mtp.py",
        "x = model.embed(input_ids[:, j + 1 :])",
        "x = model.embed(input_ids[:, j : -1])",
        "A head sees the present token in the place of the next one.",
        LOSS,
    ),
    Mutant(
        "moge_ops/models/mtp.py",
        "rows = rows[:, :n] & real[:, j + 1 :]",
        "rows = rows[:, :n]",
        "The last token before padding predicts from padding.",
        LOSS,
    ),
    Mutant(
        "moge_ops/models/mtp.py",
        "back = 0 if first else j  #",
        "back = 0  #",
        "Columns that a head computed from guesses stay in its cache.",
        DRAFT,
    ),
    Mutant(
        "moge_ops/models/mtp.py",
        "places = [x + i for x in self._lengths]",
        "places = [x + i + 1 for x in self._lengths]",
        "A chained guess leaves a column of the cache that nobody wrote.",
        DRAFT,
    ),
    Mutant(
        "moge_ops/models/mtp.py",
        "last = hidden[self._rows, (ends + back - 1).clamp_min(0)][:, None]",
        "last = hidden[:, -1:]",
        "A row that accepted less than others guesses from its padding.",
        "tests/test_mtp.py -k accept_unequally",
    ),
    Mutant(
        "moge_ops/models/layout.py",
        "(config.num_hidden_layers + heads) * (12 + 3 * experts)",
        "config.num_hidden_layers * (12 + 3 * experts)",
        "A config may ask for any number of heads.",
        "tests/test_mtp.py -k test_counts",
    ),
    Mutant(
        "moge_ops/models/_quantized.py",
        "layers = range(config.num_hidden_layers + config.num_nextn_predict_layers)",
        "layers = range(config.num_hidden_layers)",
        "A quantised folder with heads cannot be read.",
        "tests/test_mtp.py -k quantised_like",
    ),
]
