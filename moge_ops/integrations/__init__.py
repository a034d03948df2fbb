"""Bridges to other libraries, one file each; nothing here is imported by ``import moge_ops``."""
