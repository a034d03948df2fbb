"""Keeps tokenizers from finding control tokens in text that somebody typed.

A tokenizer's file is changed, in memory, into one that encodes all other text alike, with the same
ids. Its control tokens keep theirs and are found in no text.
"""

import re
import secrets
from collections.abc import Collection, Iterator
from typing import Any

# numbers of a SentencePiece model's fields, of a piece's fields, and of a piece's types
PIECES, SELF_TEST = 1, 4
NAME, TYPE = 1, 3
CONTROL, USER_DEFINED = 3, 4
# kinds of a field's value: a number, bytes behind their length, 8 and 4 bytes
NUMBER, BYTES, FIXED = 0, 2, {1: 8, 5: 4}


def _is_control(token: str) -> bool:
    """Whether a token that was added to a vocabulary is no text.

    Runs of spaces are added too, to shorten texts, and so are single characters, and names of
    bytes, which stand for characters that have no token.
    """
    if re.fullmatch("<0x[0-9A-F]{2}>", token):
        return False
    return len(token) > 1 and not token.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").isspace()


def nameless(settings: dict[str, Any], known: Collection[str]) -> dict[str, Any]:
    """A tokenizer.json that was loaded, whose control tokens have names that nobody can type.

    Its own switch, ``encode_special_tokens``, spares the added tokens that are not special; and the
    vocabulary of the model, which has the same names, may find them too.

    Args:
        settings: The file's content. It is not changed.
        known: Control tokens, beside the added ones.
    """
    added, model = settings.get("added_tokens") or [], dict(settings["model"])
    control = {token["content"] for token in added if _is_control(token["content"])}
    names = {token: secrets.token_hex(16) for token in {*known, *control}}

    def rename(token: Any) -> Any:
        return names.get(token, token)

    if isinstance(model["vocab"], dict):
        model["vocab"] = {rename(token): i for token, i in model["vocab"].items()}
    else:  # of Unigram
        model["vocab"] = [[rename(token), score] for token, score in model["vocab"]]
    if "unk_token" in model:
        model["unk_token"] = rename(model["unk_token"])
    if "merges" in model:
        prefix = model.get("continuing_subword_prefix") or ""
        pairs = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
        model["merges"] = [
            [a, b] for a, b in pairs if names.keys().isdisjoint((a, b, a + b.removeprefix(prefix)))
        ]
    added = [{**token, "content": rename(token["content"])} for token in added]
    return {**settings, "added_tokens": added, "model": model}


def unmatched(data: bytes, known: Collection[str]) -> bytes:
    """A SentencePiece model that was loaded, whose user-defined symbols are control symbols.

    Both have ids of their own, but SentencePiece finds only the former in texts.

    Args:
        data: The file's content, a protobuf message.
        known: Control tokens, beside the user-defined ones.

    Raises:
        KeyError: A field of a kind that protobuf gave up.
    """
    out = bytearray()
    for number, start, value, end in _fields(data):
        if number == PIECES:
            piece = data[value:end]
            if _is_found(piece, known):
                piece += bytes([TYPE << 3 | NUMBER, CONTROL])  # the last value of a field holds
            out += bytes([PIECES << 3 | BYTES]) + _varint(len(piece)) + piece
        elif number != SELF_TEST:  # texts, and what they must give: the symbols among it
            out += data[start:end]
    return bytes(out)


def _is_found(piece: bytes, known: Collection[str]) -> bool:
    """Whether SentencePiece would find this control token in texts."""
    name, kind = b"", 0
    for number, _, value, end in _fields(piece):
        if number == NAME:
            name = piece[value:end]
        elif number == TYPE:
            kind, _ = _read_varint(piece, value)
    token = name.decode(errors="replace")
    return token in known or (kind == USER_DEFINED and _is_control(token))


def _fields(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Number, start, start of the value and end of each field of a protobuf message."""
    start = 0
    while start < len(data):
        tag, value = _read_varint(data, start)
        kind = tag & 7
        if kind == BYTES:
            size, value = _read_varint(data, value)
            end = value + size
        elif kind == NUMBER:
            _, end = _read_varint(data, value)
        else:
            end = value + FIXED[kind]
        yield tag >> 3, start, value, end
        start = end


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """A number, seven bits in each byte, and where it ends."""
    number = shift = 0
    while data[at] & 128:
        number |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
    return number | data[at] << shift, at + 1


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])
