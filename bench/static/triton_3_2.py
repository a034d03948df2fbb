"""Gives Triton 3.2 the names that our modules import of newer ones, and the process our modules."""

import importlib.util
import sys
import types
from pathlib import Path

import triton
import triton.language as tl

ROOT = Path(__file__).resolve().parents[2]
IS_IT = triton.__version__.startswith("3.2.")


def adapt() -> None:
    """The names are of no consequence: no argument is a descriptor, no chip AMD's."""

    class TensorDescriptor:
        pass

    def is_hip() -> bool:
        return False

    is_hip.__module__ = "triton.language.target_info"  # a kernel may call only functions of Triton
    triton.knobs = types.SimpleNamespace(runtime=types.SimpleNamespace(interpret=False))
    tl.tensor_descriptor = TensorDescriptor
    for name, value in {
        "triton.tools.tensor_descriptor": TensorDescriptor,
        "triton.language.target_info": is_hip,
    }.items():
        sys.modules[name] = types.ModuleType(name)
        setattr(sys.modules[name], value.__name__, value)
    tl.target_info = sys.modules["triton.language.target_info"]
    # the package is not installed here: that would replace the extensions of the other environment
    sys.path.append(str(ROOT))
    name, folder = "moge_ops.triton_kernels", ROOT / "triton_kernels"
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


if IS_IT:
    adapt()
