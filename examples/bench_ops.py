"""The one place where the examples take from the benchmarks, so that both count and write alike.

`harness` compares, names the machine, reads options and CSV; `printing` shows progress and tables;
`finish` gives pictures one look; a `Problem` knows of each operator the oracle, FLOPs and bytes,
which are written down once. Apart from these an example uses public names of the package alone.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "bench" / "ops"))

import harness
import printing
from plots import finish
from problem import BACKWARD, FORWARD, Operator, Problem, Work

__all__ = ["BACKWARD", "FORWARD", "Operator", "Problem", "Work", "finish", "harness", "printing"]
