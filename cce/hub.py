"""The Hub: an ensemble's folder pushed as a model repository, with its card. The token is never stored."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cce.checkpoints import FILES, CheckpointError


class HubError(CheckpointError):
    """The Hub refused or could not be reached; the message says which, and never holds the token."""


def push(folder: Path, repository: str, token: str, *, private: bool = True, api: Any = None) -> str:
    """Push a checkpoint folder to `repository`, made where it is not there; returns its address.

    Args:
        folder: the checkpoint.
        repository: `owner/name`.
        token: an access token with the right to write.
        private: whether a repository that is made is private.
        api: in place of `huggingface_hub.HfApi`.

    Raises:
        HubError: no token, no right, or no connection.
    """
    from huggingface_hub import HfApi

    if not token or not token.strip():
        raise HubError("a push needs an access token with the right to write, from huggingface.co/settings/tokens")
    api = api or HfApi(token=token.strip())
    with speaking(repository):
        address = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=[*FILES, "measurements/*"],
            commit_message="An ensemble trained in CCE Studio",
        )
    return str(address)


@contextlib.contextmanager
def speaking(repository: str) -> Iterator[None]:
    """Turn what the Hub's client raises into words, without the token and without a traceback."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HubError:
        raise
    except HfHubHTTPError as error:
        raise HubError(_words(error, repository)) from error
    except ValueError as error:
        raise HubError(f"the Hub does not take {repository!r} as a repository's name") from error
    except Exception as error:
        raise HubError(f"the Hub could not be reached ({type(error).__name__}); check the network") from error


def _words(error: Exception, repository: str) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 402:
        return "the Hub refused: this account has no credit for it"
    if status == 409:
        return f"there is already a repository called {repository} on the Hub; take another name"
    if status in (401, 403):
        return f"the Hub refused: the token is not valid, or may not write to {repository}"
    return f"the Hub answered with an error ({status or type(error).__name__}); nothing was changed here"
