"""A model as it is shared: weights, configuration, words, page and curves; as a folder, or sent to the hub.

Nothing else of a run goes on: no paths, no names of hosts, no captions, no checkpoints.
"""

from __future__ import annotations

import glob
import re
import shutil
from pathlib import Path

from vatt.data.tokenizer import FILE as TOKENIZER
from vatt.errors import in_short
from vatt.export.parts import ExportedPart, example_input, not_finite
from vatt.files import appearing_folder, remove_partly, write_bytes
from vatt.hub.card import model_card
from vatt.hub.records import read_records
from vatt.hub.remote import WRITTEN, HubError, check_name, upload, written_here
from vatt.inference import VATT, load_pretrained
from vatt.inference.spaces import MODALITIES
from vatt.weights.folder import CONFIG, WEIGHTS, model_folder

CARD = "README.md"
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")


def contents(run: str | Path, repo: str, license: str) -> dict[str, Path | bytes]:
    """The files that are shared, by name: a file of the model, or a content that was made.

    Args:
        run: folder of a run or of a model. The model is loaded and reads a window of noise of each kind, so that
            nothing is shared that cannot be loaded, or gives what is no number.
        repo: OWNER/NAME, which the page tells how to load.
        license: identifier of the hub, such as apache-2.0, cc-by-4.0, other.

    Raises:
        HubError: a name, a licence or a record that cannot be used, or a model that gives values that are not finite.
        PretrainedError, TextError: no model that loads.
    """
    check_name(repo)
    if not _LICENSE.fullmatch(license):
        raise HubError(
            f"license: {in_short(license, 80)!r} is no identifier of a licence; some are apache-2.0, mit, other"
        )
    folder = model_folder(run)
    records = read_records(folder.parent if folder.name == "model" else folder)
    model = load_pretrained(folder)
    assert model.config is not None
    for modality in MODALITIES if isinstance(model, VATT) else (model.config.modality,):
        part = ExportedPart(model, modality)
        rows = 1 if modality == "video" else 3  # a silent sound and a sentence without a word are among them
        if why := not_finite(part, example_input(part, rows)):
            raise HubError(f"{folder}: {modality}: {why}")
    tokenizer = model.tokenizer if isinstance(model, VATT) else None
    count = sum(x.numel() for x in model.parameters())
    card = model_card(repo, model.config, count, records, license, tokenizer)
    found: dict[str, Path | bytes] = {CARD: card.encode(), CONFIG: folder / CONFIG, WEIGHTS: folder / WEIGHTS}
    if tokenizer is not None:
        found[TOKENIZER] = folder / TOKENIZER
    return found | records.plots


def write_folder(run: str | Path, repo: str, license: str, out: str | Path) -> Path:
    """Writes what would be sent into ``out``, whole or not at all; see `contents`.

    Args:
        out: a folder that is new, empty, or was written by this function; the files of that one are replaced at once.

    Raises:
        HubError: also where ``out`` holds anything else.
    """
    out = Path(out)
    if (left := _not_ours(out)) is not None:
        raise HubError(
            f"{out}: is there already, and vatt push has not written all of it ({in_short(left, 100)}); it stays as it "
            "is: name another folder by --out"
        )
    files = contents(run, repo, license)
    remove_partly(out.parent, glob.escape(out.name))
    with appearing_folder(out, replace=True) as partly:
        for name, content in files.items():
            if isinstance(content, bytes):
                write_bytes(partly / name, content)
            else:
                shutil.copyfile(content, partly / name)
    return out


def _not_ours(out: Path) -> str | None:
    """The name of something in a folder, or of what stands in its place, that `write_folder` has not written."""
    if not out.is_dir():
        return out.name if out.exists() or out.is_symlink() else None
    names = sorted(path.name for path in out.iterdir())
    if others := [path.name for path in out.iterdir() if path.name not in WRITTEN or not path.is_file()]:
        return min(others)
    card = out / CARD
    ours = card.is_file() and written_here(card.read_bytes()[:4096].decode(errors="replace"))
    return names[0] if names and not ours else None


def push(run: str | Path, repo: str, license: str, *, private: bool | None = None) -> str:
    """Sends a model to the hub, all files in one commit; returns its address.

    Args:
        private: of a model that is new there; None as its owner has set it.

    Raises:
        HubError: see `contents` and `vatt.hub.remote.upload`.
    """
    return upload(contents(run, repo, license), repo, "Weights, configuration and page", private)
