"""The Hub: ensembles pushed as model repositories with their cards, and fetched by id. The token is never stored.

`push` and `fetch` are what `Checkpoint.push_to_hub` and `Checkpoint.from_pretrained` do, under the names of
`huggingface_hub`'s mixin. An ensemble is weights and JSON alone: nothing that is fetched can run code.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import json
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cce.checkpoints.weight_files import CheckpointError
from cce.data.picture_split import FILE as PICTURES

FILES = ("config.json", "model.safetensors", "metrics.json", "README.md")
"""What a checkpoint's folder holds."""

SECONDS = 5.0
"""How long the Hub may take to answer at all; its client alone would try for 23 s where there is no network."""

MOST_BYTES = 1_000_000_000
"""An ensemble on the Hub that is larger is not fetched."""

NOBODY = "nobody"
"""In the place of a token: ask as somebody who is not logged in."""

_SENT = (*FILES, PICTURES, "measurements/*")
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


class HubError(CheckpointError):
    """The Hub refused or could not be reached; the message says which, and never holds the token."""


def is_repository(name: Any) -> bool:
    """Whether this is written as a Hub id, `owner/name`.

    >>> is_repository("someone/digits-cce-rm"), is_repository("digits-cce-rm"), is_repository("../x")
    (True, False, False)
    """
    return isinstance(name, str) and bool(_REPOSITORY.fullmatch(name))


def check_repository(name: Any) -> str:
    """The name without blanks around it.

    Raises:
        HubError: it is not written as a Hub id.
    """
    name = str(name or "").strip()
    if not is_repository(name):
        raise HubError(f"the repository is {name!r}; it is written as your-name/name-of-the-ensemble")
    return name


def reach(seconds: float = SECONDS) -> None:
    """Ask the Hub for a sign of life.

    Raises:
        HubError: none came within `seconds`, whatever the reason.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        raise HubError("HF_HUB_OFFLINE is set, so the Hub is not asked; unset it to reach the Hub")
    said: list[str] = []

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=seconds)
            said.append("")
        except Exception as error:
            said.append(f" ({type(error).__name__})")

    # In a thread, since looking up a name has a patience of its own.
    thread = threading.Thread(target=ask, name="hub", daemon=True)
    thread.start()
    thread.join(seconds)
    if not said or said[0]:
        reason = said[0] if said else f" within {seconds:g} s"
        raise HubError(f"the Hub could not be reached{reason}; check the network")


def connected(token: str | None) -> Any:
    """`huggingface_hub`'s client; without a token, with the one that this machine is logged in with.

    Args:
        token: an access token, None, or `NOBODY`.

    Raises:
        HubError: the Hub does not answer.
    """
    from huggingface_hub import HfApi

    reach()
    return HfApi(token=False if token == NOBODY else (token or "").strip() or None)


def push(folder: Path, repository: str, token: str, *, private: bool = True, api: Any = None) -> str:
    """Push a checkpoint folder to `repository`, made where it is not there; returns its address.

    Args:
        folder: the checkpoint.
        repository: `owner/name`.
        token: an access token with the right to write.
        private: whether a repository that is made is private; one that is public already is then refused.
        api: in place of `huggingface_hub.HfApi`.

    Raises:
        HubError: no token, no right, no connection, or a public repository where a private one was asked for.
    """
    repository = check_repository(repository)
    if not token or not token.strip():
        raise HubError("a push needs an access token with the right to write, from huggingface.co/settings/tokens")
    api = api or connected(token)
    with speaking(repository, token), _without_paths(folder) as sent:
        if private and _is_public(api, repository):
            raise HubError(
                f"{repository} is on the Hub already and is public: everybody would see what is pushed. Say that it "
                "may be public, or take another name"
            )
        address = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=sent,
            allow_patterns=list(_SENT),
            commit_message="An ensemble trained in CCE Studio",
        )
    return str(address)


def _is_public(api: Any, repository: str) -> bool:
    """Whether a repository is there already, for everybody to see."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        found = api.model_info(repository, revision=None, files_metadata=False)
    except RepositoryNotFoundError as error:
        if getattr(error.response, "status_code", None) == 401:
            raise
        return False
    return getattr(found, "private", None) is False


@contextlib.contextmanager
def _without_paths(folder: Path) -> Iterator[Path]:
    """The folder itself, or a copy in which no file names a folder of this machine, as files of before did."""
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        path = values["training"]["config"]["data_dir"]
    except (OSError, ValueError, KeyError, TypeError):
        path = ""
    if not isinstance(path, str) or not Path(path).is_absolute():
        yield folder
        return
    with tempfile.TemporaryDirectory() as place:
        copy = Path(shutil.copytree(folder, Path(place) / folder.name))
        for file in (*copy.rglob("*.json"), *copy.rglob("*.md")):
            text = file.read_text(encoding="utf-8")
            file.write_text(text.replace(path, Path(path).name), encoding="utf-8")
        yield copy


def fetch(
    repository: str,
    revision: str | None = None,
    token: str | None = None,
    *,
    most_bytes: int = MOST_BYTES,
    api: Any = None,
) -> Path:
    """The folder of an ensemble on the Hub, in the Hub's cache on this machine; fetched where it is not there.

    Without a connection, what was fetched before is used.

    Args:
        repository: `owner/name`.
        revision: branch, tag or commit; None is `main`.
        token: for a private one; None: the one that this machine is logged in with.
        most_bytes: a larger ensemble is refused.
        api: in place of `huggingface_hub.HfApi`.

    Raises:
        HubError: no such repository, no ensemble in it, too large a one, or no connection.
    """
    repository = check_repository(repository)
    try:
        api = api or connected(token)
    except HubError:
        if found := _cached(repository, revision):
            return found
        raise
    with speaking(repository, token, writing=False):
        files = api.model_info(repository, revision=revision, files_metadata=True).siblings or []
        sizes = {f.rfilename: f.size or 0 for f in files if any(fnmatch.fnmatch(f.rfilename, p) for p in _SENT)}
        for name in ("config.json", "model.safetensors"):
            if name not in sizes:
                raise HubError(f"{repository} on the Hub holds no CCE ensemble: it has no {name}")
        if sum(sizes.values()) > most_bytes:
            raise HubError(
                f"{repository} on the Hub takes {sum(sizes.values()) / 1e6:,.0f} MB; "
                f"at most {most_bytes / 1e6:,.0f} MB are fetched"
            )
        return Path(api.snapshot_download(repository, revision=revision, allow_patterns=list(_SENT)))


def is_cached(repository: str) -> bool:
    """Whether something of a repository lies in the Hub's cache on this machine."""
    from huggingface_hub import constants

    return (Path(constants.HF_HUB_CACHE) / _cache_name(repository)).exists()


def remove(repository: str, folder: Path) -> None:
    """Remove what `fetch` brought of a repository from this machine; a folder outside of the Hub's cache stays."""
    place = next((p for p in folder.parents if p.name == _cache_name(repository)), None)
    if place is not None and folder.parent.name == "snapshots":
        shutil.rmtree(place, ignore_errors=True)


def _cache_name(repository: str) -> str:
    return "models--" + repository.replace("/", "--")


def pull(
    repository: str,
    folder: Path,
    check: Callable[[Path], object],
    revision: str | None = None,
    token: str | None = None,
    *,
    api: Any = None,
) -> Path:
    """Fetch an ensemble from the Hub into a folder of its own, which is there whole or not at all.

    Args:
        repository: `owner/name`.
        folder: made; must not be there yet.
        check: raises where what was fetched is not whole; `cce.checkpoints.folder.load`.
        revision: branch, tag or commit; None is `main`.
        token: for a private one; None: the one that this machine is logged in with.
        api: in place of `huggingface_hub.HfApi`.

    Raises:
        HubError: see `fetch`; or the folder is there already or cannot be written.
        CheckpointError: what is on the Hub is damaged.
    """
    if folder.exists():
        raise HubError(f"{folder} is already there; name another folder, or move it away")
    found = fetch(repository, revision, token, api=api)
    check(found)
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(found, beside, ignore=lambda place, names: [n for n in names if n.startswith(".")])
        beside.rename(folder)
    except OSError as error:
        raise HubError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


def _cached(repository: str, revision: str | None) -> Path | None:
    """What was fetched before, None where nothing was."""
    from huggingface_hub import snapshot_download

    try:
        found = Path(snapshot_download(repository, revision=revision, local_files_only=True))
    except Exception:  # not there, or a cache that cannot be read: both mean none
        return None
    return found if (found / "model.safetensors").exists() else None


@contextlib.contextmanager
def speaking(repository: str, token: str | None = None, writing: bool = True) -> Iterator[None]:
    """Turn what the Hub's client raises into words, without the token and without a traceback.

    Args:
        repository: which one is asked about.
        token: what was asked with; None: the one that this machine is logged in with, if any.
        writing: whether something is written there.
    """
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HubError:
        raise
    except HfHubHTTPError as error:
        raise HubError(_words(error, repository, token, writing)) from error
    except ValueError as error:
        raise HubError(f"the Hub does not take {repository!r} as a repository's name") from error
    except Exception as error:
        if getattr(error, "errno", None) in _DISK:
            raise HubError(f"the files of {repository} cannot be written here: {error.strerror}") from error
        raise HubError(f"the Hub could not be reached ({type(error).__name__}); check the network") from error


def _words(error: Exception, repository: str, token: str | None, writing: bool) -> str:
    from huggingface_hub import get_token
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401 and token != NOBODY and (token or get_token()):  # a repository that is not there is a 404
        return (
            "the Hub refused: the token is not valid: it has expired or is mistyped. Log in with `hf auth login` or "
            "set HF_TOKEN; what is public can be had without a token"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{repository} on the Hub has no such revision"
    if isinstance(error, RepositoryNotFoundError):
        return f"there is no repository called {repository} on the Hub, or it is private and the token may not see it"
    if status == 402:
        return "the Hub refused: this account has no credit for it"
    if status == 409:
        return f"there is already a repository called {repository} on the Hub; take another name"
    if status in (401, 403):
        may = "write to" if writing else "read"
        return f"the Hub refused: the token may not {may} {repository}"
    return f"the Hub answered with an error ({status or type(error).__name__}); nothing was changed here"
