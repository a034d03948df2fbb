"""Launchers of the Ascend C kernels, which are in the extension ``moge_ops._C``."""
