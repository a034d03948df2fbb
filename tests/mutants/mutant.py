"""What one line of the tables says."""

from typing import NamedTuple


class Mutant(NamedTuple):
    """A fault to seed, and the tests that must see it."""

    file: str
    """Path from the root of the repository."""
    old: str
    """Text that is replaced; it stands in the file exactly once."""
    new: str
    why: str
    """What is wrong then, in one sentence."""
    tests: str
    """Arguments of pytest, one file at least: as few tests as see the fault. Empty if none can."""
    equivalent: str = ""
    """Why no test can see it: the proof that the program does the same."""
