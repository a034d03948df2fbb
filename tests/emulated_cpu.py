"""A plugin of pytest for native CPU kernels that were built with MOGE_CPU_EMULATED.

Every level of the instruction set then runs on any processor with AVX2. ``MOGE_OPS_CPU_MODULE``
names the extension, which takes the place of the installed one before anything imports that.
"""

import importlib.util
import os
import sys

import torch  # noqa: F401 - its threads are looked for when the extension is loaded

NAME = "moge_ops._cpu"

assert "moge_ops" not in sys.modules, "the package has already taken the installed extension"
spec = importlib.util.spec_from_file_location(NAME, os.environ["MOGE_OPS_CPU_MODULE"])
assert spec is not None
assert spec.loader is not None
sys.modules[NAME] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules[NAME])
