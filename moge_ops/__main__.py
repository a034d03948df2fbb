"""``python -m moge_ops``: see :mod:`moge_ops.cli`."""

from moge_ops.cli import main

if __name__ == "__main__":
    main()
