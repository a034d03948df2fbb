"""Packs the wheels of a folder into one archive of little more than half their size, in minutes.

``make gpu`` unpacks it. Most of SonicMoE's wheels is two libraries, which xz after a filter for x86
code makes far smaller than a zip does.
"""

import lzma
import sys
import tarfile
import zipfile
from pathlib import Path

LZMA = {
    "id": lzma.FILTER_LZMA2,
    "preset": 9 | lzma.PRESET_EXTREME,
    "dict_size": 2**28,  # from one library to the other, which share code; takes 3 GB of memory
    **{"lc": 4, "lp": 0, "pb": 0},  # instructions start at any byte: its position tells nothing
}


def pack(folder: Path) -> None:
    """In place of the wheels ``wheels.tar.xz``, what they install."""
    wheels = sorted(folder.glob("*.whl"))
    with (
        lzma.open(folder / "wheels.tar.xz", "wb", filters=[{"id": lzma.FILTER_X86}, LZMA]) as file,
        tarfile.open(fileobj=file, mode="w") as archive,
    ):
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as zipped:
                for info in zipped.infolist():
                    if not info.is_dir():
                        entry = tarfile.TarInfo(f"wheels/{info.filename}")
                        entry.size = info.file_size
                        archive.addfile(entry, zipped.open(info))
    for wheel in wheels:
        wheel.unlink()


if __name__ == "__main__":
    pack(Path(sys.argv[1]))
