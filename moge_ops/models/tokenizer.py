"""Text to token ids and back, with the tokenizer of a checkpoint folder, and the chat format.

A folder holds either ``tokenizer.json``, as transformers writes it, or ``tokenizer.model``, a
SentencePiece model, as the released folder does. Both are data. Python code and templates that a
folder may also hold are never read.

Text stays text: control tokens, such as those that begin and end a turn, come from the chat format
alone. Whoever types ``[unused10]`` gets its characters, so that no question can end its own turn.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from moge_ops import _files
from moge_ops.models import _typed

__all__ = ["Stream", "Tokenizer", "load_tokenizer", "write_byte_tokenizer"]

R = TypeVar("R")
MOST_TOKENIZER = 256 * 2**20  # bytes; the largest vocabularies in use take 40 MB
MOST_GROWTH = 1000  # times as long as the text may a tokenizer.json make it
# characters that a step makes of one, at most: the normal forms by Unicode's UAX 15, section 12
GROWTH = {"ByteLevel": 4, "NFC": 3, "NFD": 4, "NFKC": 18, "NFKD": 18, "Precompiled": 18}

FAST, SENTENCEPIECE = "tokenizer.json", "tokenizer.model"
UNKNOWN, BOS, OPEN, CLOSE = "<unk>", "<s>", "[unused9]", "[unused10]"
SYSTEM, USER, ASSISTANT = "系统：", "用户：", "助手："  # noqa: RUF001 - as published

# the chat format for transformers, which fills in roles and contents
TEMPLATE = (
    "{{ bos_token }}"
    f"{{% if messages[0].role != 'system' %}}{OPEN}{SYSTEM}{CLOSE}{{% endif %}}"
    "{% for message in messages %}"
    f"{OPEN}{{{{ {{'system': '{SYSTEM}', 'user': '{USER}', 'assistant': '{ASSISTANT}'}}"
    f"[message.role] + message.content }}}}{CLOSE}"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{OPEN}{ASSISTANT}{{% endif %}}"
)


@dataclass(frozen=True)
class Tokenizer:
    """A folder's tokenizer, with one interface for both kinds of file.

    Attributes:
        path: The file that it was read from.
        size: All ids are below this.
        encode: Text to ids, without ``<s>`` before them. Names of control tokens are text: those
            of added tokens and of user-defined symbols, if they have two characters or more
            and not only spaces.
        decode: Ids to text, without special tokens and unknown ids.
        id_of: Id of a special token, or None if there is no such token.
    """

    path: Path
    size: int
    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    id_of: Callable[[str], int | None]

    def _special(self, token: str) -> int:
        found = self.id_of(token)
        if found is None:
            raise ValueError(f"{self.path} has no token {token}")
        return found

    def raw(self, text: str) -> list[int]:
        """``<s>`` and the text, for the model to continue."""
        return [self._special(BOS), *self.encode(text)]

    def chat(self, user: str, system: str = "") -> list[int]:
        """One question in the published chat format, up to where the answer begins.

        ``<s>``, then for system and user each ``[unused9]``, role, text, ``[unused10]``; then
        ``[unused9]`` and the assistant's role. Text between special tokens is encoded separately.
        """
        opens, closes = self._special(OPEN), self._special(CLOSE)
        ids = [self._special(BOS)]
        for text in (SYSTEM + system, USER + user):
            ids += [opens, *self.encode(text), closes]
        return [*ids, opens, *self.encode(ASSISTANT)]


class Stream:
    """Decodes ids that come one at a time, into whole characters."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.decode = tokenizer.decode
        self.ids: list[int] = []
        # ids before `done` are shown already; decoding starts earlier, at `start`, because spaces
        # and characters depend on the tokens before them
        self.start = self.done = 0

    def add(self, token: int) -> str:
        """The text that this id completes; empty while a character is incomplete."""
        self.ids.append(token)
        if self.decode(self.ids[self.start :]).endswith("\ufffd"):
            return ""
        return self.rest()

    def rest(self) -> str:
        """All text that is left, even an incomplete character."""
        before = self.decode(self.ids[self.start : self.done])
        text = self.decode(self.ids[self.start :])[len(before) :]
        self.start, self.done = self.done, len(self.ids)
        return text


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Loads the tokenizer of a folder.

    Raises:
        FileNotFoundError: The folder has no tokenizer.
        ImportError: The package that reads its file is not installed.
        ValueError: The file is damaged, or no regular file.
    """
    folder = Path(folder)
    for name, load in ((FAST, _fast), (SENTENCEPIECE, _sentencepiece)):
        if (folder / name).exists():
            return load(folder / name)
    raise FileNotFoundError(f"{folder} has neither {FAST} nor {SENTENCEPIECE}")


def _fast(path: Path) -> Tokenizer:
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError(f"{path} needs tokenizers: pip install 'moge-ops[models]'") from error
    settings = _files.read_object(path, MOST_TOKENIZER)
    # meant for batches of a fixed length: a prompt would be cut, or filled up to any length
    settings.update(truncation=None, padding=None)
    parts = [settings.get(name) for name in ("normalizer", "pre_tokenizer", "decoder")]
    try:
        growth = _growth(parts)
        text = json.dumps(settings)  # escaped, so that half a surrogate is the parser's error
    except RecursionError:
        raise ValueError(f"{path} is not a tokenizer: it is nested too deeply") from None
    if growth > MOST_GROWTH:
        raise ValueError(
            f"{path} must not make a text more than {MOST_GROWTH} times as long, got steps that do"
        )
    engine = _guarded(path, "is not a tokenizer", tokenizers.Tokenizer.from_str, text)
    known = UNKNOWN, BOS, OPEN, CLOSE
    settings = _guarded(path, "is not a tokenizer", _typed.nameless, settings, known)
    text = json.dumps(settings)
    encoder = _guarded(path, "is not a tokenizer", tokenizers.Tokenizer.from_str, text)

    def encode(text: str) -> list[int]:
        ids: list[int] = _guarded(
            path, "cannot encode", encoder.encode, text, add_special_tokens=False
        ).ids
        return ids

    def decode(ids: Sequence[int]) -> str:
        text: str = _guarded(path, "cannot decode", engine.decode, list(ids))
        return text

    size = 1 + max(engine.get_vocab().values(), default=-1)  # ids may have gaps
    return Tokenizer(path, size, encode, decode, engine.token_to_id)


def _guarded(path: Path, what: str, call: Callable[..., R], *args: Any, **options: Any) -> R:
    """Calls the package, which has no error class of its own, and panics outside of Exception."""
    try:
        return call(*args, **options)
    except BaseException as error:
        panic = type(error).__name__ == "PanicException"
        if isinstance(error, MemoryError) or not (panic or isinstance(error, Exception)):
            raise
        raise ValueError(f"{path} {what}: {error}") from None


def _growth(part: Any) -> float:
    """How many times as long a text can become by the steps in parts of a tokenizer.json.

    They are carried out one after another, so that a few lines could fill any memory.
    """
    parts = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    growth = 1.0
    for each in parts:
        growth = min(growth * _growth(each), 1e9)
    kind = part.get("type") if isinstance(part, dict) else None
    growth *= GROWTH.get(kind, 1) if isinstance(kind, str) else 1
    if isinstance(part, dict) and kind == "Replace":
        pattern, content = part.get("pattern"), part.get("content")
        found = pattern.get("String") if isinstance(pattern, dict) else None
        added = len(content) if isinstance(content, str) else 0
        # a regular expression may match between any two characters, as an empty text does
        growth *= max(1.0, added / len(found)) if isinstance(found, str) and found else 1.0 + added
    return growth


def _sentencepiece(path: Path) -> Tokenizer:
    try:
        import sentencepiece
    except ImportError as error:
        raise ImportError(f"{path} needs sentencepiece: pip install 'moge-ops[models]'") from error
    data, engine = _files.read(path, MOST_TOKENIZER), sentencepiece.SentencePieceProcessor()
    encoder = sentencepiece.SentencePieceProcessor()
    try:
        engine.LoadFromSerializedProto(data)
        encoder.LoadFromSerializedProto(_typed.unmatched(data, (BOS, OPEN, CLOSE)))
    except (KeyError, OSError, RuntimeError) as error:  # KeyError: a field of no known kind
        raise ValueError(f"{path} is not a SentencePiece model: {error}") from None
    size = engine.get_piece_size()

    def encode(text: str) -> list[int]:
        ids: list[int] = encoder.encode(text)
        return ids

    def id_of(token: str) -> int | None:
        found = engine.piece_to_id(token)
        return None if engine.is_unknown(found) else found

    silent = {id_of(token) for token in (BOS, OPEN, CLOSE)}

    def decode(ids: Sequence[int]) -> str:
        text: str = engine.decode([i for i in ids if i < size and i not in silent])
        return text

    return Tokenizer(path, size, encode, decode, id_of)


def write_byte_tokenizer(folder: str | Path) -> Tokenizer:
    """Writes a tokenizer for small models, whose tokens are the 256 bytes, and loads it.

    transformers' ``AutoTokenizer`` reads it too. But its ``apply_chat_template`` turns messages and
    control tokens into one text, in which control tokens that a user typed count. Its option
    ``split_special_tokens`` makes text of the template's tokens as well. For messages of users whom
    you do not trust, take :meth:`Tokenizer.chat`, or encode every message by itself with
    ``split_special_tokens=True``.
    """
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    special = [UNKNOWN, BOS, OPEN, CLOSE]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())  # a character for each byte
    vocab = {token: i for i, token in enumerate([*special, *alphabet])}
    engine = tokenizers.Tokenizer(models.BPE(vocab, [], unk_token=UNKNOWN))
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    engine.decoder = decoders.ByteLevel()
    engine.add_special_tokens(special)
    _files.write(Path(folder) / FAST, engine.to_str(pretty=True).encode())
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": UNKNOWN,
        "bos_token": BOS,
        "eos_token": CLOSE,
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
    }
    text = json.dumps(config, ensure_ascii=False, indent=2)
    _files.write(Path(folder) / "tokenizer_config.json", f"{text}\n".encode())
    return load_tokenizer(folder)
