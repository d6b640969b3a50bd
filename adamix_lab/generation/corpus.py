"""Plain text for pre-training: documents out of files, and their tokens in one memory-mapped file.

A file holds paragraphs, one a line, and an empty line between documents. Tokens lie in one long array of uint16, every
document followed by end-of-text; training reads windows of it, so nothing is padded and memory holds only what is used.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from adamix_lab.core.errors import positive
from adamix_lab.core.files import write_atomically, write_text

OPENERS = {".txt": open, ".xz": lzma.open, ".gz": gzip.open}
SUFFIXES = (".txt", ".txt.xz", ".txt.gz")
HELD_OUT = ("valid", "test")  # files whose names hold one of these are left for evaluation
TOKENS, FACTS = "tokens.bin", "tokens.json"
_PORTION = 256  # documents or long pieces encoded at a time
_LONGEST = 50_000  # characters encoded as one piece; the cut falls between paragraphs


def text_files(source: str | Path, held_out: bool = False) -> list[Path]:
    """The text files of a folder, sorted by name, or the one file given.

    Files whose names hold "valid" or "test" are not trained on: `held_out` asks for those instead.

    Raises FileNotFoundError where there is none, ValueError for a file of another kind.
    """
    source = Path(source)
    if source.is_file():
        if not source.name.endswith(SUFFIXES):
            raise ValueError(f"{source} is no text file: expected a name ending in {', '.join(SUFFIXES)}.")
        return [] if held_out else [source]
    found = sorted(p for p in source.glob("*") if p.is_file() and p.name.endswith(SUFFIXES))
    found = [path for path in found if any(word in path.name for word in HELD_OUT) == held_out]
    if not found and not held_out:
        raise FileNotFoundError(
            f"{source} holds no text to train on: expected a file, or a folder of files, ending in "
            f"{', '.join(SUFFIXES)} (names with {' or '.join(HELD_OUT)} are kept for evaluation)."
        )
    return found


def open_text(path: Path) -> IO[str]:
    """A text file, unpacked by its ending. UTF-8."""
    return OPENERS[path.suffix](path, "rt", encoding="utf-8")  # type: ignore[operator, no-any-return]


def documents(path: Path) -> Iterator[str]:
    """The documents of a file: runs of lines between empty ones. Raises ValueError for text that is not UTF-8."""
    lines: list[str] = []
    try:
        with open_text(path) as file:
            for line in file:
                if line.strip():
                    lines.append(line)
                elif lines:
                    yield "".join(lines)
                    lines = []
    except (UnicodeDecodeError, EOFError, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{path} could not be read as UTF-8 text ({error}). Expected whole files of plain text; convert it with "
            "iconv, or copy it again."
        ) from error
    if lines:
        yield "".join(lines)


@dataclass(frozen=True)
class Corpus:
    """Tokens of a corpus, and where they came from.

    Attributes:
        sha256: of the unpacked text of every file, one after the other.
        tokenizer: sha256 of its `tokenizer.json`.
        files: their names.
        documents: how many.
        characters: of all documents.
        tokens: with one end-of-text a document.
    """

    sha256: str
    tokenizer: str
    files: tuple[str, ...]
    documents: int
    characters: int
    tokens: int


def text_sha256(files: Iterable[Path]) -> str:
    """The sha256 of the unpacked text of the files."""
    digest = hashlib.sha256()
    for path in files:
        with open_text(path) as file:
            while piece := file.read(1 << 20):
                digest.update(piece.encode())
    return digest.hexdigest()


def tokenize(files: list[Path], sha256: str, tokenizer: Any, folder: Path) -> Corpus:
    """Writes the tokens of the files to `folder`. The facts come last: with them the tokens are complete.

    Args:
        files: from `text_files`.
        sha256: of their text, from `text_sha256`.
        tokenizer: fast, with an end-of-text; it lies in `folder`.
        folder: for `tokens.bin` (uint16, 2 bytes a token) and `tokens.json`.

    Raises:
        ValueError: a vocabulary beyond uint16, or text that is not UTF-8.
    """
    if len(tokenizer) > 1 << 16:
        raise ValueError(f"A vocabulary of {len(tokenizer)}: expected at most {1 << 16}.")
    counts = {"documents": 0, "characters": 0, "tokens": 0}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as out:
            for path in files:
                _write_tokens(path, tokenizer, out, counts)

    write_atomically(folder / TOKENS, write)
    identity = hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    corpus = Corpus(sha256, identity, tuple(path.name for path in files), **counts)
    write_text(folder / FACTS, json.dumps(asdict(corpus), indent=2) + "\n")
    return corpus


def known_corpus(folder: Path) -> Corpus | None:
    """The facts of tokens that lie whole in a folder, else None."""
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        known = Corpus(**{**facts, "files": tuple(facts["files"])})
        return known if (folder / TOKENS).stat().st_size == 2 * known.tokens else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _write_tokens(path: Path, tokenizer: Any, out: IO[bytes], counts: dict[str, int]) -> None:
    pieces = (piece for text in documents(path) for piece in _pieces(text))
    while portion := list(islice(pieces, _PORTION)):
        encoded = tokenizer.backend_tokenizer.encode_batch([text for text, _ in portion], add_special_tokens=False)
        for (text, last), one in zip(portion, encoded, strict=True):
            ids = [*one.ids, tokenizer.eos_token_id] if last else one.ids
            out.write(np.array(ids, dtype=np.uint16).tobytes())
            counts["documents"] += last
            counts["characters"] += len(text)
            counts["tokens"] += len(ids)


def _pieces(text: str) -> Iterator[tuple[str, bool]]:
    # A novel is one document: encoded in pieces, cut after a paragraph.
    text, start = text.strip() + "\n", 0
    while start < len(text):
        end = text.find("\n", start + _LONGEST) + 1 or len(text)
        yield text[start:end], end == len(text)
        start = end


class Windows:
    """Batches of windows of a token file, in a new seeded order each epoch: a function of (seed, step).

    Args:
        folder: with the tokens, from `tokenize`.
        length: tokens a window.
        batch_size: windows a step.
        seed: of the order.

    Raises:
        ValueError: the corpus is shorter than one window.
    """

    def __init__(self, folder: Path, length: int, batch_size: int, seed: int) -> None:
        positive("length", length)
        positive("batch_size", batch_size)
        self.tokens = np.memmap(folder / TOKENS, dtype=np.uint16, mode="r")
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.count = len(self.tokens) // length
        if self.count == 0:
            raise ValueError(
                f"The corpus has {len(self.tokens)} tokens: expected one window of {length} at least. Give more text, "
                "or a shorter context."
            )
        self._order: tuple[int, np.ndarray] | None = None

    def at(self, step: int) -> Tensor:
        """The windows of a step: token ids `[batch_size, length]`, int64. An epoch's end flows into the next one."""
        places = range(step * self.batch_size, (step + 1) * self.batch_size)
        rows = [self._row(*divmod(place, self.count)) for place in places]
        return torch.from_numpy(np.stack(rows))

    def _row(self, epoch: int, place: int) -> np.ndarray:
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, np.random.default_rng((self.seed, epoch)).permutation(self.count)
        start = int(self._order[1][place]) * self.length
        return self.tokens[start : start + self.length].astype(np.int64)
