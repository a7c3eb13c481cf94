"""A Hugging Face Hub whose repositories are folders of this machine."""

from __future__ import annotations

import fnmatch
import shutil
from collections.abc import Iterable
from pathlib import Path

import httpx
from huggingface_hub.errors import HfHubHTTPError

TOKEN = "hf_secret_of_the_test"


def answer(status: int, kind: type[HfHubHTTPError] = HfHubHTTPError) -> HfHubHTTPError:
    """The Hub's refusal, with the token in it, as its messages may have."""
    response = httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co/api"))
    return kind(f"{status} with {TOKEN} in it", response=response)


class FolderHub:
    """Repositories are folders under `root`; it answers nothing but `failing` where that is set."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.failing: Exception | None = None

    def create_repo(self, repo_id, private, exist_ok):
        self.say()
        if not exist_ok and (self.root / repo_id).exists():
            raise answer(409)
        (self.root / repo_id).mkdir(parents=True, exist_ok=True)
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, repo_id, folder_path, commit_message, allow_patterns=("*",)):
        self.say()
        self.copy(Path(folder_path), self.root / repo_id, allow_patterns)

    def say(self) -> None:
        """What every question begins with."""
        if self.failing:
            raise self.failing

    def copy(self, source: Path, target: Path, patterns: Iterable[str]) -> None:
        """The files of a folder that fit a pattern."""
        for path in source.rglob("*"):
            name = str(path.relative_to(source))
            if path.is_file() and any(fnmatch.fnmatch(name, p) for p in patterns):
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target / name)
