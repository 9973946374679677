"""The words of a model: from its folder, or from a vocabulary file that the user names."""

from __future__ import annotations

from pathlib import Path

from vatt.data.tokenizer import FILE, TextError, Tokenizer
from vatt.models.config import VATTConfig


def find_tokenizer(folder: Path, vocabulary: str | Path | None, config: VATTConfig) -> Tokenizer | None:
    """The tokenizer of a model.

    Args:
        folder: that of the model; its tokenizer.json is used where ``vocabulary`` is None.
        vocabulary: one word a line, BERT's ``vocab.txt``, or a ``tokenizer.json``.

    Returns:
        None if nothing is named and the folder has no tokenizer.json.

    Raises:
        TextError: the file cannot be read, or names more words than the model has word vectors.
    """
    path = folder / FILE if vocabulary is None else Path(vocabulary)
    if vocabulary is None and not path.is_file():
        return None
    found = Tokenizer.load(path.parent) if path.name == FILE else Tokenizer.from_file(path)
    rows = config.unified.txt_vocab_size if config.backbone == "unified" else config.text.vocab_size
    if found.vocab_size > rows:
        raise TextError(f"{path}: has {found.vocab_size} words, but the model in {folder} has {rows} word vectors")
    return found
