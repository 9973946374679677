"""Models by name, from the hub of huggingface.co or one that HF_ENDPOINT names; the network is used here alone.

Of a repository three files are read, see `FILES`: nothing that Python would run, whatever else is in it. What comes is
checked as it is downloaded (sizes before, hashes after), and then read as any local folder is. Private models need a
token (``hf auth login``, or HF_TOKEN), which the library sends to the hub alone; no message shows one.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vatt.errors import UserError, in_short

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
FILES = (CONFIG, WEIGHTS, TOKENIZER)
# Bytes: as many as the readers of local folders take; of weights what the largest configuration has.
_MOST = {CONFIG: 16 * 2**20, TOKENIZER: 64 * 2**20, WEIGHTS: 400 * 10**9}
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy")
_NAME = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(@(?P<revision>[\w./-]{1,100}))?")
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{6,}|(?i:bearer)\s+\S+")
_SECONDS = 10.0  # of waiting for an answer
_log = logging.getLogger(__name__)


class HubError(UserError, ValueError):
    """A model on the hub that cannot be read or written. The message names it, and the file."""


def local_model(model: str | Path) -> Path:
    """The folder of a model: itself, or of one on the hub that of its copy in the cache, brought up to date.

    Args:
        model: a folder, or OWNER/NAME of the hub, or OWNER/NAME@REVISION. A folder that is there comes first; a `Path`
            is always a folder.

    Raises:
        HubError: there is no such folder, and no such model on the hub that could be used.
    """
    if isinstance(model, Path) or Path(model).exists() or not (found := _NAME.fullmatch(model)):
        return Path(model)
    return download(found["repo"], found["revision"])


def download(repo: str, revision: str | None = None) -> Path:
    """The folder of a model of the hub in the library's cache.

    Where the hub cannot be reached (or HF_HUB_OFFLINE=1 forbids it) the copy in the cache is used, and told.

    Raises:
        HubError: no such model or none that may be read, no safetensors in it, a file that is too large or has another
            hash than the hub says, or no copy where the hub cannot be reached.
    """
    hub = _library()
    where = f"{repo}@{revision}" if revision else repo
    try:
        with _telling(where):
            info = _api().model_info(repo, revision=revision, files_metadata=True, timeout=_SECONDS)
    except _Unreachable as error:
        return _cached(repo, revision, where, error)
    _check_listed(where, info.siblings or [])
    had = {name: _is_cached(repo, name, info.sha) for name in FILES}
    try:
        with _telling(where), _quiet():
            folder = Path(
                hub.snapshot_download(repo, revision=revision, allow_patterns=list(FILES), library_name="vatt-torch")
            )
    except _Unreachable as error:
        raise HubError(f"{where}: was not read to its end: {error}; try again") from None
    if folder.name != info.sha:
        raise HubError(f"{where}: was changed while it was read; try again")
    for entry in info.siblings or []:
        if entry.rfilename in FILES and not had[entry.rfilename]:
            _check_content(where, folder / entry.rfilename, entry)
    return folder


def upload(files: Mapping[str, Path | bytes], repo: str, message: str, private: bool | None = None) -> str:
    """Makes files, by their names, one commit of a model on the hub, which is created if it is not there.

    Returns:
        The address of the model.

    Raises:
        HubError: without a token, or the hub refuses.
    """
    hub = _library()
    api = _api()
    try:
        with _telling(repo, "written"), _quiet():
            made = api.create_repo(repo, private=private, exist_ok=True)
            adds = [hub.CommitOperationAdd(name, content) for name, content in files.items()]
            api.create_commit(repo, adds, commit_message=message)
    except _Unreachable as error:
        raise HubError(f"{repo}: {error}") from error
    return str(made)


def check_name(repo: str) -> None:
    """Raises HubError: no OWNER/NAME, as a model to be written needs."""
    found = _NAME.fullmatch(repo)
    if not found or found["revision"] or ".." in repo or "--" in repo:
        raise HubError(
            f"{in_short(repo, 100)}: is no name of a model on the hub: OWNER/NAME, of letters, digits, . _ -"
        )


class _Unreachable(Exception):
    """The hub gives no answer; the message says why."""


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise HubError("models of the hub need the package huggingface_hub: pip install 'vatt-torch[hub]'") from error
    return huggingface_hub


def _api() -> Any:
    return _library().HfApi(library_name="vatt-torch")


def _is_cached(repo: str, name: str, commit: str | None) -> bool:
    return isinstance(_library().try_to_load_from_cache(repo, name, revision=commit), str)


def _cached(repo: str, revision: str | None, where: str, why: _Unreachable) -> Path:
    hub = _library()
    try:
        with _quiet():
            folder = hub.snapshot_download(repo, revision=revision, allow_patterns=list(FILES), local_files_only=True)
    except Exception:  # of several kinds: there is no copy, or a part of one
        raise HubError(
            f"{where}: no such folder here; as a model of the hub it is not in the cache, and {why}"
        ) from None
    _log.warning("%s: %s; the copy in the cache is used, commit %s", where, why, Path(folder).name[:12])
    return Path(folder)


def _check_listed(where: str, entries: list[Any]) -> None:
    """Before anything is fetched: is it a model of ours, and of a size that is read?"""
    sizes = {entry.rfilename: entry.size for entry in entries}
    if WEIGHTS not in sizes:
        pickles = sorted(name for name in sizes if name.endswith(_PICKLES))
        why = f", but {in_short(pickles[0], 100)}, which may run programs when it is read" if pickles else ""
        raise HubError(f"{where}: holds no {WEIGHTS}{why}")
    if CONFIG not in sizes:
        raise HubError(f"{where}: holds no {CONFIG}")
    for name, most in _MOST.items():
        if name in sizes and not 0 <= (size := sizes[name] or 0) <= most:
            raise HubError(f"{where}: {name} has {size:,} bytes, too many for such a file (at most {most:,})")


def _check_content(where: str, path: Path, entry: Any) -> None:
    """Raises HubError: a downloaded file has not the hash that the hub lists; it is removed from the cache."""
    if entry.lfs is not None:
        wanted, digest = entry.lfs.sha256, hashlib.sha256()
    elif entry.blob_id:
        wanted, digest = entry.blob_id, hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    else:
        return
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != wanted:
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise HubError(f"{where}: {path.name} has another hash than the hub says; it was removed, try again")


@contextmanager
def _telling(where: str, done: str = "read") -> Iterator[None]:
    """Errors of the library as ours, in one line and without tokens.

    Raises:
        HubError: the hub refuses. _Unreachable: it gives no answer.
    """
    from huggingface_hub import constants, errors

    try:
        yield
    except errors.OfflineModeIsEnabled:
        raise _Unreachable("HF_HUB_OFFLINE forbids the network") from None
    except errors.GatedRepoError:
        raise HubError(
            f"{where}: may be {done} by those alone whom its owners let in; ask for it on its page"
        ) from None
    except errors.RepositoryNotFoundError:
        here = "no such folder here, and on " if done == "read" else ""
        raise HubError(
            f"{where}: {here}{_host(constants.ENDPOINT)} no such model that you may see; for a private one log in by "
            "hf auth login, or give HF_TOKEN"
        ) from None
    except errors.RevisionNotFoundError:
        raise HubError(f"{where}: the model on {_host(constants.ENDPOINT)} has no such revision") from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise HubError(
                f"{where}: cannot be {done} with the token that is given, or without one ({status}); log in by "
                "hf auth login, or give HF_TOKEN, of a token that may do it"
            ) from None
        if status is not None and status >= 500:
            raise _Unreachable(f"{_host(constants.ENDPOINT)} answers {status}") from None
        raise HubError(f"{where}: {_host(constants.ENDPOINT)}: {_clean(error)}") from None
    except (HubError, KeyboardInterrupt):
        raise
    except Exception as error:  # of the HTTP library, whichever it is, and answers that make no sense
        if isinstance(error, OSError) and error.filename:  # of the disk
            raise HubError(f"{where}: {error.filename}: {error.strerror}") from None
        names = {kind.__name__ for kind in type(error).__mro__}
        if names & {"TransportError", "RequestException", "ConnectionError", "TimeoutException", "TimeoutError"}:
            raise _Unreachable(f"{_host(constants.ENDPOINT)} cannot be reached ({type(error).__name__})") from None
        raise HubError(f"{where}: cannot be {done}: {_clean(error)}") from None


def _host(endpoint: str) -> str:
    """The address of the hub without a name and password that it may hold."""
    return re.sub(r"//[^/@]*@", "//", endpoint)


def _clean(error: BaseException) -> str:
    """A message as one line, without tokens."""
    words = [str(part) for part in (error, error.__cause__) if part is not None]
    text = _host(_TOKEN.sub("***", " ".join(" ".join(words).split()) or type(error).__name__))
    for secret in filter(None, (os.environ.get("HF_TOKEN"), os.environ.get("HUGGING_FACE_HUB_TOKEN"))):
        text = text.replace(secret, "***")
    return in_short(text, 300)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's bars for each file, unless a terminal looks."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if os.isatty(2) or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
