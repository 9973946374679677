"""Words to ids, on Hugging Face ``tokenizers`` and without any download.

Three kinds: the official word vocabulary (one word per line), a BERT vocabulary, or words learned from the captions.
Always: lower case, id 0 is padding, no begin or end tokens (as the official loaders call their tokenizers).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.models import WordLevel, WordPiece
from tokenizers.trainers import WordLevelTrainer

from vatt.config import show
from vatt.errors import UserError
from vatt.files import write_text
from vatt.json_files import JSONError, read_bounded, read_json

FILE = "tokenizer.json"
MOST_BYTES, MOST_WORDS = 64 * 2**20, 10_000_000  # of a vocabulary or a tokenizer
_ASCII_PUNCTUATION = Regex(r"[!-/:-@\[-`{-~]")  # what the official tokenizer strips; other scripts keep theirs


class TextError(UserError, ValueError):
    """A vocabulary, tokenizer or embedding file that cannot be used. The message names the file and what is wrong."""


class Tokenizer:
    """Sentences to fixed-length id arrays. Make one with a ``from_*`` method, ``train`` or ``load``. Picklable."""

    def __init__(self, fast: FastTokenizer) -> None:
        self._fast = fast

    @property
    def vocab_size(self) -> int:
        """Rows that the embedding table needs: the largest id plus one."""
        return max(self._fast.get_vocab().values()) + 1

    def encode(self, sentences: list[str], words: int) -> np.ndarray:
        """Ids int64 (len(sentences), words): truncated or padded with 0. An empty sentence is all padding."""
        ids = np.zeros((len(sentences), words), np.int64)
        for row, sentence in zip(ids, sentences, strict=True):
            # One by one: encode_batch starts threads, of which a loader worker has no use.
            kept = self._fast.encode(sentence, add_special_tokens=False).ids[:words]
            row[: len(kept)] = kept
        return ids

    def unknown_words(self, sentence: str, words: int | None = None) -> tuple[list[str], int]:
        """Of the first ``words`` of a sentence (None: all): those that the vocabulary does not have, as they are
        written, and the number of the others."""
        found = self._fast.encode(sentence, add_special_tokens=False)
        unknown_id, ids = self._fast.token_to_id(self._fast.model.unk_token), found.ids[:words]
        places = [place for index, place in zip(ids, found.offsets, strict=False) if index == unknown_id]
        return [sentence[first:end] for first, end in places], sum(index not in (0, unknown_id) for index in ids)

    def known_words(self, sentence: str, words: int | None = None) -> list[str]:
        """Of the first ``words`` of a sentence those that the vocabulary has, or the pieces of them, as they are
        written."""
        found = self._fast.encode(sentence, add_special_tokens=False)
        strange = (0, self._fast.token_to_id(self._fast.model.unk_token))
        return [
            sentence[first:end]
            for index, (first, end) in zip(found.ids[:words], found.offsets, strict=False)
            if index not in strange
        ]

    @classmethod
    def from_vocabulary(cls, path: str | Path) -> Tokenizer:
        """The official layout: one word per line (its line is its id) or "id word"; has <pad> (id 0) and <unk>.

        Words are what is left between white space once ASCII punctuation is gone, as in the official word tokenizer.

        Raises:
            TextError: not readable, empty, a malformed or upper-case line, a word or id twice, <pad> or <unk> missing.
        """
        vocabulary: dict[str, int] = {}
        words: dict[int, str] = {}
        for number, line in enumerate(_lines(path), start=1):
            parts = line.split()
            if len(parts) not in (1, 2) or (len(parts) == 2 and not parts[0].isdecimal()):
                raise TextError(f"{path}, line {number}: expected a word, or an id and a word, got {show(line)}")
            if len(parts) == 2 and (len(parts[0]) > 8 or int(parts[0]) >= MOST_WORDS):
                raise TextError(f"{path}, line {number}: the id {show(parts[0])} is not 0 to {MOST_WORDS - 1:,}")
            word, index = parts[-1], int(parts[0]) if len(parts) == 2 else number - 1
            if word != word.lower():
                raise TextError(f"{path}, line {number}: {show(word)} is not in lower case")
            if index in words:
                raise TextError(f"{path}, line {number}: {show(word)} has the same id {index} as {show(words[index])}")
            words[index] = word
            _add(vocabulary, word, index, path, number)
        _need(vocabulary, ("<pad>", "<unk>"), path)
        return cls(_word_level(vocabulary, "<unk>"))

    @classmethod
    def from_bert(cls, path: str | Path) -> Tokenizer:
        """A BERT ``vocab.txt`` (uncased WordPiece, one token per line), with [PAD] as id 0 and [UNK].

        Raises:
            TextError: not readable, empty, a token twice, [PAD] or [UNK] missing.
        """
        vocabulary: dict[str, int] = {}
        for number, line in enumerate(_lines(path), start=1):
            _add(vocabulary, line.strip(), number - 1, path, number)
        _need(vocabulary, ("[PAD]", "[UNK]"), path)
        fast = FastTokenizer(WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=200))
        fast.normalizer = normalizers.BertNormalizer(lowercase=True)
        fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        return cls(fast)

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """``from_bert`` where the file has a [PAD] line, else ``from_vocabulary``."""
        is_bert = any(line.strip() == "[PAD]" for line in _lines(path))
        return cls.from_bert(path) if is_bert else cls.from_vocabulary(path)

    @classmethod
    def train(cls, captions: Iterable[str], size: int = 2**16) -> Tokenizer:
        """The ``size`` most frequent words of the captions, with <pad> as id 0 and <unk> as id 1.

        Ties in frequency are ordered by the word, so that the ids do not depend on the order of the captions.
        """
        fast = _word_level({"<pad>": 0, "<unk>": 1}, "<unk>")
        trainer = WordLevelTrainer(vocab_size=size, special_tokens=["<pad>", "<unk>"], show_progress=False)
        fast.train_from_iterator(sorted(captions), trainer)
        # Anew from the words alone: the trainer also makes "<pad>" in a caption the padding id, ahead of any clean-up.
        return cls(_word_level(fast.get_vocab(), "<unk>"))

    def save(self, folder: str | Path) -> Path:
        """Writes ``tokenizer.json`` into the folder, which must exist."""
        path = Path(folder) / FILE
        write_text(path, self.to_text())
        return path

    def to_text(self) -> str:
        """What ``save`` writes."""
        text: str = self._fast.to_str(pretty=True)
        return text

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """Reads what ``save`` wrote. Patterns other than ours are refused: with some of them, a caption takes hours.

        Raises:
            TextError: the file is missing or no tokenizer, or has a part that is not one of ours; it names the part.
        """
        path = Path(folder) / FILE
        try:
            content = _checked(read_json(path, dict, most=MOST_BYTES), path)
            return cls(FastTokenizer.from_str(json.dumps(content)))
        except JSONError as error:
            raise TextError(str(error)) from error
        except TextError:
            raise
        except Exception as error:  # tokenizers raises bare Exception for a file that it cannot parse
            raise TextError(f"{path}: cannot read the tokenizer: {error}") from error


_REPLACE = {"type": "Replace", "pattern": {"Regex": r"[!-/:-@\[-`{-~]"}, "content": ""}
_NORMALIZERS = ("BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Strip", "StripAccents")
_PRE_TOKENIZERS = ("BertPreTokenizer", "Punctuation", "Whitespace", "WhitespaceSplit")


def _checked(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """What of a tokenizer.json makes ids of words, each part one that is known to take time as the text is long."""
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type") not in ("WordLevel", "WordPiece"):
        found = model.get("type") if isinstance(model, dict) else model
        raise TextError(f"{path}: model.type: {show(found)} is not one of WordLevel, WordPiece")
    vocabulary, unknown = model.get("vocab"), model.get("unk_token")
    if not isinstance(vocabulary, dict) or not 0 < len(vocabulary) <= MOST_WORDS:
        raise TextError(f"{path}: model.vocab: expected words with their ids, at most {MOST_WORDS:,}")
    words: dict[int, str] = {}
    for word, index in vocabulary.items():
        if type(index) is not int or not 0 <= index < MOST_WORDS:
            raise TextError(f"{path}: model.vocab: {show(word)} has the id {show(index)}, not 0 to {MOST_WORDS - 1:,}")
        if words.setdefault(index, word) != word:
            raise TextError(f"{path}: model.vocab: {show(word)} has the same id {index} as {show(words[index])}")
    if words.get(0) not in ("<pad>", "[PAD]"):
        raise TextError(f"{path}: model.vocab: id 0 is {show(words.get(0))}, but it is padding, <pad> or [PAD]")
    if not isinstance(unknown, str) or unknown not in vocabulary:
        raise TextError(f"{path}: model.unk_token: {show(unknown)} is not in the vocabulary")
    kept = {"type": model["type"], "vocab": vocabulary, "unk_token": unknown}
    if model["type"] == "WordPiece":
        prefix, longest = model.get("continuing_subword_prefix", "##"), model.get("max_input_chars_per_word", 100)
        if not isinstance(prefix, str) or len(prefix) > 16:
            raise TextError(f"{path}: model.continuing_subword_prefix: expected at most 16 characters")
        if type(longest) is not int or not 1 <= longest <= 1000:
            raise TextError(f"{path}: model.max_input_chars_per_word: expected int from 1 to 1000, got {show(longest)}")
        kept |= {"continuing_subword_prefix": prefix, "max_input_chars_per_word": longest}
    added = content.get("added_tokens") or []
    if not isinstance(added, list) or len(added) > 1000 or not all(_is_added(item, vocabulary) for item in added):
        raise TextError(f"{path}: added_tokens: expected at most 1000, each a word of the vocabulary with its id")
    normalizer = _parts(content.get("normalizer"), "normalizer", _NORMALIZERS, path)
    pre_tokenizer = _parts(content.get("pre_tokenizer"), "pre_tokenizer", _PRE_TOKENIZERS, path)
    made = {"version": "1.0", "added_tokens": added, "normalizer": normalizer, "pre_tokenizer": pre_tokenizer}
    # No padding, no cutting, no tokens at the ends: a sentence is ids of its words, whatever the file says.
    return made | {"truncation": None, "padding": None, "post_processor": None, "decoder": None, "model": kept}


def _is_added(item: Any, vocabulary: dict[str, int]) -> bool:
    return (
        isinstance(item, dict)
        and isinstance(item.get("content"), str)
        and vocabulary.get(item["content"]) == item.get("id")
    )


def _parts(part: Any, field: str, known: tuple[str, ...], path: Path, nested: bool = True) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    if nested and kind == "Sequence" and isinstance(inner := part.get(f"{field}s"), list) and len(inner) <= 16:
        return {"type": kind, f"{field}s": [_parts(item, field, known, path, nested=False) for item in inner]}
    if part is None or kind in known or (field == "normalizer" and part == _REPLACE):
        return part
    raise TextError(f"{path}: {field}: {show(part)} is not one of {', '.join(known)}, nor what this project writes")


def load_word_embeddings(path: str | Path, vocab_size: int, width: int) -> np.ndarray:
    """A word embedding matrix float32 (vocab_size, width) from a .npy file, such as word2vec's in the paper.

    Raises:
        TextError: not a readable .npy of numbers, another shape (both are named), or values that are not finite.
    """
    try:
        table = np.load(path, mmap_mode="r", allow_pickle=False)  # nothing is read before the shape is known
    except (OSError, ValueError, TypeError, EOFError, OverflowError, SyntaxError, MemoryError, RecursionError) as error:
        raise TextError(f"{path}: cannot read the word embeddings: {error}") from error
    if not isinstance(table, np.ndarray) or table.dtype.kind != "f":
        raise TextError(f"{path}: expected one array of floating-point numbers in .npy form")
    if table.shape != (vocab_size, width):
        raise TextError(
            f"{path}: shape {table.shape}, but the model needs {(vocab_size, width)}: one row a word of the vocabulary"
        )
    if not np.isfinite(table).all():
        raise TextError(f"{path}: row {int(np.argwhere(~np.isfinite(table))[0, 0])} is not finite")
    return table.astype(np.float32)


def _word_level(vocabulary: dict[str, int], unknown: str) -> FastTokenizer:
    fast = FastTokenizer(WordLevel(vocabulary, unk_token=unknown))
    fast.normalizer = normalizers.Sequence([normalizers.Replace(_ASCII_PUNCTUATION, ""), normalizers.Lowercase()])
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return fast


def _lines(path: str | Path) -> list[str]:
    try:
        # Not splitlines: U+2028 and its like may be part of a token, and each line too many would shift all ids.
        text = read_bounded(path, MOST_BYTES).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        lines = text.removesuffix("\n").split("\n")
    except (OSError, ValueError) as error:
        raise TextError(f"{path}: cannot read the vocabulary: {error}") from error
    if lines == [""]:
        raise TextError(f"{path}: the vocabulary is empty")
    return lines


def _add(vocabulary: dict[str, int], word: str, index: int, path: str | Path, number: int) -> None:
    if not word:
        raise TextError(f"{path}, line {number}: empty")
    if word in vocabulary:
        raise TextError(f"{path}, line {number}: {show(word)} is there twice")
    vocabulary[word] = index


def _need(vocabulary: dict[str, int], tokens: tuple[str, str], path: str | Path) -> None:
    for token in tokens:
        if token not in vocabulary:
            raise TextError(f"{path}: the vocabulary has no {token}")
    if vocabulary[tokens[0]] != 0:
        raise TextError(f"{path}: {tokens[0]} has id {vocabulary[tokens[0]]}, but id 0 is padding")
