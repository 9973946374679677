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
from urllib.parse import unquote

from vatt.errors import UserError, in_short
from vatt.extras import install

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
FILES = (CONFIG, WEIGHTS, TOKENIZER)
WRITTEN = (*FILES, "README.md", "loss.png", "retrieval.png")  # what vatt push may write
# Bytes: as many as the readers of local folders take; of weights what the largest configuration has.
_MOST = {CONFIG: 16 * 2**20, TOKENIZER: 64 * 2**20, WEIGHTS: 400 * 10**9}
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy")
_NAME = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(@(?P<revision>[\w./-]{1,100}))?", re.ASCII
)
_REVISION = re.compile(r"[\w./-]{1,100}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{6,}|(?i:bearer|basic)\s+\S+")
_SECONDS = 10.0  # of waiting for an answer
_SECONDS_TO_WRITE = 300.0  # likewise, where the hub may be at work on what it was sent
_MOST_PAGE = 2**20  # bytes of a README.md
_SHORTEST_SECRET = 4  # a shorter one is a part of ordinary words
_STAYS = (".gitattributes", "README.md", "LICENSE", "LICENSE.md", "LICENSE.txt")  # of a model that may be empty
_log = logging.getLogger(__name__)


class HubError(UserError, ValueError):
    """A model on the hub that cannot be read or written. The message names it, and the file."""


def local_model(model: str | Path, revision: str | None = None) -> Path:
    """The folder of a model: itself, or of one on the hub that of its copy in the cache, brought up to date.

    Args:
        model: a folder, or OWNER/NAME of the hub, or OWNER/NAME@REVISION. A folder that is there comes first; a `Path`
            is always a folder.
        revision: a branch, a tag or a commit, as behind the @; of a name on the hub alone.

    Raises:
        HubError: there is no such folder, and no such model on the hub that could be used; or a folder with a revision.
    """
    found = None if isinstance(model, Path) or Path(model).exists() else _NAME.fullmatch(model)
    if found is None:
        if revision is not None:
            raise HubError(f"revision: {in_short(str(model), 100)} is a folder, or no name on the hub; it has none")
        return Path(model)
    if revision is not None and (found["revision"] or not _REVISION.fullmatch(revision)):
        why = f"stands in the name, too: {model}" if found["revision"] else "is none: letters, digits, . _ / -"
        raise HubError(f"revision: {in_short(revision, 100)!r} {why}")
    return download(found["repo"], revision or found["revision"])


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
    if not _COMMIT.fullmatch(info.sha or ""):  # it names a folder of the cache
        raise HubError(f"{where}: {_host(hub.constants.ENDPOINT)} names {in_short(repr(info.sha), 80)} as its commit")
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

    What an earlier commit of this project wrote, and this one has not, is removed by it; anything else stays.

    Returns:
        The address of the model.

    Raises:
        HubError: without a token, the hub refuses, the model or the page there is of somebody else's making, or
            somebody else wrote to it meanwhile; then nothing was written.
    """
    hub = _library()
    api = _api()
    try:
        with _telling(repo, "written"), _quiet(), _patient():
            api.create_repo(repo, private=private, exist_ok=True)
            ours, parent = _ours_there(repo)
            stale = sorted(ours - files.keys())
            changes = [hub.CommitOperationAdd(name, content) for name, content in files.items()]
            changes += [hub.CommitOperationDelete(name) for name in stale]
            api.create_commit(repo, changes, commit_message=message, parent_commit=parent)
    except _Unreachable as error:
        raise HubError(f"{repo}: was not written: {error}; try again") from None
    return f"{_host(hub.constants.ENDPOINT)}/{repo}"


def written_here(page: str) -> bool:
    """Whether a README.md is one that `vatt.hub.card` has written: the head of it names the package."""
    head, end, _ = page.removeprefix("---\n").partition("\n---\n")
    return page.startswith("---\n") and bool(end) and "library_name: vatt-torch" in head.splitlines()


def _is_stub(page: str) -> bool:
    """Whether a README.md has nothing below its head, as the one that the hub makes of a license."""
    _, end, below = f"{page}\n".removeprefix("---").partition("\n---\n")
    return not (below if page.startswith("---\n") and end else page).strip()


def _ours_there(repo: str) -> tuple[set[str], str | None]:
    """The names of the files that `vatt push` has written into a model that is there, none in an empty one; and the
    commit that was looked at, None where there is none yet.

    Raises:
        HubError: it holds a model or a page that this project has not written, which must not be lost among ours.
    """
    info = _api().model_info(repo, files_metadata=True, timeout=_SECONDS)
    sizes = {entry.rfilename: entry.size or 0 for entry in info.siblings or []}
    page: str | None = ""  # None: too large to be read, so it is not ours
    if "README.md" in sizes:
        page = None
        if sizes["README.md"] <= _MOST_PAGE:
            path = _library().hf_hub_download(repo, "README.md", revision=info.sha, library_name="vatt-torch")
            page = Path(path).read_text(encoding="utf-8", errors="replace")
    if page is not None and written_here(page):
        return sizes.keys() & set(WRITTEN), info.sha
    others = sizes.keys() - set(_STAYS)
    if not others and page is not None and _is_stub(page):
        return set(), info.sha
    what, other = ("model", in_short(min(others), 100)) if others else ("page", "README.md")
    raise HubError(
        f"{repo}: holds a {what} there that vatt push has not written ({other}); choose another name, or remove it "
        "first"
    )


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
        raise HubError(f"models of the hub need the package huggingface_hub: {install('hub')}") from error
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
        whole = all((Path(folder) / name).is_file() for name in (CONFIG, WEIGHTS))
    except Exception:  # of several kinds: there is no copy
        whole = False
    if not whole:
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

    redacted, all_names = (
        _Redacted(),
        list(logging.root.manager.loggerDict),
    )  # a parent's sees less
    loggers = [logging.getLogger(name) for name in all_names if name.startswith("huggingface_hub")]
    for logger in loggers:
        logger.addFilter(redacted)
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
        if status in (409, 412) and done == "written":  # the parent of the commit is the newest one no more
            raise HubError(
                f"{where}: somebody else wrote to it meanwhile ({status}); nothing was written, try again"
            ) from None
        if status == 429:
            wait = str(error.response.headers.get("Retry-After", ""))
            known = wait.isascii() and wait.isdigit() and len(wait) < 10
            when = f"in {int(wait):,} seconds" if known else "later"
            raise _Unreachable(f"{_host(constants.ENDPOINT)} answers 429, it was asked too often; ask {when}") from None
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
        raise HubError(f"{where}: cannot be {done} ({type(error).__name__}): {_clean(error)}") from None
    finally:
        for logger in loggers:
            logger.removeFilter(redacted)


def _host(endpoint: str) -> str:
    """The address of the hub without what may be secret in it: a name and password, a query. To the last @: a password
    may hold slashes."""
    return re.sub(r"//.*@", "//", endpoint).partition("?")[0].partition("#")[0].rstrip("/")


def _clean(error: BaseException) -> str:
    """A message as one line, without tokens, and without names and passwords in addresses."""
    words = [str(part) for part in (error, error.__cause__) if part is not None]
    return in_short(_without_secrets(" ".join(" ".join(words).split()) or type(error).__name__), 300)


def _without_secrets(text: str) -> str:
    hub = _library()
    endpoint = hub.constants.ENDPOINT
    text = text.replace(endpoint, _host(endpoint))
    secrets = [os.environ.get("HF_TOKEN"), os.environ.get("HUGGING_FACE_HUB_TOKEN"), hub.get_token()]
    if (shown := re.search(r"//(.*)@", endpoint)) is not None:
        user, _, password = shown[1].partition(":")
        secrets += [shown[1], unquote(shown[1]), password or user, unquote(password or user)]
    for secret in secrets:
        if secret and len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "***")
    return re.sub(r"//[^/?#\s]*@", "//", _TOKEN.sub("***", text))


class _Redacted(logging.Filter):
    """What the library tells while it tries again, with addresses that have no secrets in them."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = _without_secrets(record.getMessage()), None
        return True


@contextmanager
def _patient() -> Iterator[None]:
    """The library's own client waits for ever for a hub that has taken a request and is silent."""
    session = _library().utils.get_session()
    before = getattr(session, "timeout", None)
    session.timeout = _SECONDS_TO_WRITE
    try:
        yield
    finally:
        session.timeout = before


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
