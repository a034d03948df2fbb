"""Texts from outside, and texts that a terminal is shown."""

import os
import re

import torch


def utf8(name: str, text: str | bytes) -> str:
    """A text from outside.

    Python keeps bytes of the command line that the locale's encoding does not have as halves of
    surrogates. In the locale "C" they may still be UTF-8.

    Raises:
        ValueError: It is not UTF-8.
    """
    if isinstance(text, str) and not re.search("[\ud800-\udfff]", text):
        return text
    try:
        return (text if isinstance(text, bytes) else os.fsencode(text)).decode()
    except UnicodeError as error:
        _, data, start, *_ = error.args
        got = f"{data[start : start + 1]!a} at {start}"
        raise ValueError(f"{name} must be UTF-8, got {got}") from None


def shown(text: str) -> str:
    """The text with control characters replaced, which could steer a terminal."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", text)


def line(text: str) -> str:
    """The text in one line."""
    line = "; ".join(line.strip() for line in text.splitlines() if line.strip())
    return shown(line.replace(":; ", ": "))


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
