"""Triton kernels and their launchers, one file per op. Import as ``moge_ops.triton_kernels``."""

if __name__ != "moge_ops.triton_kernels":
    raise ImportError(
        f"this folder is moge_ops.triton_kernels, not {__name__!r}: "
        "the repository root is on sys.path; run `pytest`, not `python -m pytest`"
    )
