"""Faults of TrimR: thoughts, the verifier's threads, and what is inserted when."""

from mutant import Mutant

FILE = "moge_ops/models/trimr.py"
THOUGHTS, JUDGES = "moge_ops/models/_thoughts.py", "moge_ops/models/_judges.py"
CUTS = "tests/test_thoughts.py"
PLAY = "tests/test_trimr.py -k 'agree or without or goes_on or rows'"

MUTANTS = [
    Mutant(
        THOUGHTS,
        "self._from = start.start()",
        "self._from = at",
        "A marker whose text comes in parts is not found.",
        CUTS,
    ),
    Mutant(
        THOUGHTS,
        'elif not (rest[len(marker)].isalnum() or rest[len(marker)] == "_"):',
        "else:",
        "Waiting begins a thought as Wait does.",
        CUTS,
    ),
    Mutant(
        THOUGHTS,
        "known = max(0, len(self._text) - len(self._end) + 1)",
        "known = len(self._text)",
        "An end that comes in parts is not seen.",
        CUTS,
    ),
    Mutant(
        THOUGHTS,
        "if marker and len(thought := self._text[:at].strip()) >= self._least:",
        "if marker and (thought := self._text[:at].strip()):",
        "Short thoughts are not merged.",
        CUTS,
    ),
    Mutant(
        JUDGES,
        "            calls.get_nowait()\n",
        "            break\n",
        "What waits is asked although nobody listens.",
        "tests/test_trimr.py -k what_waits",
    ),
    Mutant(
        JUDGES,
        "if call is not None and call.overdue(self._timeout):",
        "if False:",
        "Closing waits for a call that hangs.",
        "tests/test_trimr.py -k no_longer_waits",
    ),
    Mutant(
        FILE,
        "row.agreed = row.agreed + 1 if yes else 0",
        "row.agreed = row.agreed + 1 if yes else row.agreed",
        "Pairs that agree need not follow each other.",
        PLAY,
    ),
    Mutant(
        FILE,
        "        row.agreed = 0\n        if self._strict:",
        "        if self._strict:",
        "A verdict that never came does not break a row of agreeing answers.",
        "tests/test_trimr.py -k breaks",
    ),
    Mutant(
        FILE,
        "and ids and row.stream.done == len(row.stream.ids):",
        "and ids:",
        "Words come in the middle of a character.",
        "tests/test_trimr.py -k split",
    ),
    Mutant(
        FILE,
        "row.tokens >= self._due and",
        "row.tokens >= 0 and",
        "Convergence is asked for at once.",
        "tests/test_trimr.py -k threshold",
    ),
    Mutant(
        FILE,
        "if row.thoughts.ended:  # before words could be inserted\n            row.reason = None",
        "if False:\n            row.reason = None",
        "Words follow an end that the model has found itself.",
        "tests/test_trimr.py -k ended_by_itself",
    ),
    Mutant(
        FILE,
        "row.overdue = True  # the row asks nothing more until its thread is back",
        "row.call = None",
        "A row whose calls hang takes one worker after another.",
        "tests/test_trimr.py -k other_workers",
    ),
    Mutant(
        FILE,
        "if ids[-1] == ids[-1 - p] and ids[-p * copies :] == ids[-p:] * copies:",
        "if ids[-p * self._repeats :] == ids[-p:] * self._repeats:",
        "A few equal digits are a repetition.",
        "tests/test_trimr.py -k no_repetition",
    ),
    Mutant(
        FILE,
        "        if row.inserted:\n            row.inserted -= 1\n            return\n",
        "",
        "Inserted words count as the model's own thoughts.",
        "tests/test_trimr.py -k no_thoughts",
    ),
    Mutant(
        "moge_ops/models/_verifier.py",
        "return float((logits[0] - logits[1]).sigmoid())",
        "return float(logits.sigmoid()[0])",
        "A verdict does not depend on the logit of No.",
        "tests/test_trimr_generate.py -k two_tokens",
    ),
]
