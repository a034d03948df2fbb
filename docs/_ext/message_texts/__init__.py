"""Every message that the package can show a user, read from its sources.

Python is read as a syntax tree: what ``raise``, ``warnings.warn``, a logger, an ``assert`` and a
``print`` to standard error say, and problems that are collected in a list. A value within a text
becomes a hole with the value's name; where the texts that may stand there are in the source, they
are listed too. C++ is read by its string literals.
"""

import functools
from pathlib import Path

from message_texts import _cpp
from message_texts._python import Reader
from message_texts._text import CLOSE, HOLE, OPEN, Message, Unread, words

__all__ = [
    "CLOSE",
    "HOLE",
    "OPEN",
    "ROOT",
    "SUBJECTS",
    "Message",
    "Reader",
    "Unread",
    "merged",
    "read",
    "sources",
    "subject",
]
ROOT = Path(__file__).resolve().parents[3]
# subject -> beginnings of the paths of its files; the longest one that fits decides
SUBJECTS = {
    "backends": ("moge_ops/_backend.py", "moge_ops/_extensions.py", "setup.py", "triton_kernels/",
                 "csrc/cpu/choice.cpp"),
    "operators": ("moge_ops/", "csrc/", "csrc/cpu/"),
    "layers": ("moge_ops/_first_router.py", "moge_ops/nn.py", "moge_ops/statistics.py",
               "moge_ops/surgery/", "moge_ops/_pooled.py", "moge_ops/offload/"),
    "model": ("moge_ops/models/pangu_moe.py", "moge_ops/models/generation.py",
              "moge_ops/models/cache.py", "moge_ops/models/mtp.py",
              "moge_ops/models/speculation.py", "moge_ops/models/_steps.py",
              "moge_ops/models/synthetic.py",
              "moge_ops/models/trimr.py", "moge_ops/models/_thoughts.py",
              "moge_ops/models/_judges.py", "moge_ops/models/_verifier.py"),
    "folders": ("moge_ops/_files.py", "moge_ops/models/", "moge_ops/quant/_shards.py",
                "moge_ops/quant/_problems.py"),
    "quantised": ("moge_ops/_quantized.py", "moge_ops/quant/", "moge_ops/models/_quantized.py",
                  "moge_ops/integrations/_quantized_folders.py"),
    "transformers": ("moge_ops/integrations/transformers.py", "moge_ops/integrations/pangu_auto.py",
                     "moge_ops/integrations/_experts_interface.py",
                     "moge_ops/integrations/_pangu_files.py",
                     "moge_ops/integrations/_quantizer.py"),
    "engines": ("moge_ops/integrations/",),
    "distributed": ("moge_ops/distributed/", "moge_ops/planner/"),
    "npu": ("moge_ops/ascend/", "csrc/launch.cpp", "csrc/npu_host/"),
    "emulator": ("csrc/emulator/",),
    "command line": ("moge_ops/cli/",),
    "testing": ("moge_ops/testing.py",),
}  # fmt: skip


def subject(file: str) -> str:
    """The one of `SUBJECTS` that a file belongs to."""
    fitting = [(len(start), name) for name, starts in SUBJECTS.items() for start in starts
               if file.startswith(start)]  # fmt: skip
    return max(fitting)[1]


def sources() -> tuple[list[Path], list[Path]]:
    """The files that are read, of Python and of C++."""
    folders = [ROOT / "moge_ops", ROOT / "triton_kernels", ROOT / "csrc" / "emulator"]
    python = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    cpp = sorted(path for end in ("*.cpp", "*.h") for path in (ROOT / "csrc").rglob(end))
    return [*python, ROOT / "setup.py"], cpp


@functools.cache
def read() -> tuple[tuple[Message, ...], tuple[Unread, ...], int]:
    """All messages, the places that were not understood, and the number of ``raise``."""
    python, cpp = sources()
    reader = Reader(python, ROOT)
    found = [*reader.messages, *(message for path in cpp for message in _cpp.messages(path, ROOT))]
    return tuple(found), tuple(reader.unread), reader.raises


def merged(about: str) -> list[tuple[Message, list[str]]]:
    """The messages of a subject in the order of their texts, each once, with all its places."""
    same: dict[tuple[str, str], tuple[Message, list[str]]] = {}
    for message in read()[0]:
        if subject(message.file) == about:
            where = f"{message.file}:{message.line}"
            same.setdefault((message.text, message.kind), (message, []))[1].append(where)
    return sorted(same.values(), key=lambda each: [w.lower() for w in words(each[0].text)])
