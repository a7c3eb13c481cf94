"""Push, pull and load by Hub id, against a Hub that is a folder, a server that is silent, and none at all."""

from __future__ import annotations

import json
import shutil
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from cce.__main__ import main
from cce.checkpoints import folder as checkpoints
from cce.checkpoints import hub
from cce.checkpoints.folder import Checkpoint, CheckpointError
from cce.checkpoints.hub import HubError
from folder_hub import TOKEN, FolderHub, answer

ID = "someone/tiny-two"


class CachingHub(FolderHub):
    """What was fetched lies in a cache of its own, and it is known which repository is private."""

    def __init__(self, root: Path) -> None:
        super().__init__(root / "hub")
        self.cache, self.private = root / "cache", {}

    def create_repo(self, repo_id, private, exist_ok):
        self.private[repo_id] = private
        return super().create_repo(repo_id, private, exist_ok)

    def model_info(self, repo_id, revision, files_metadata):
        self.say()
        if not (self.root / repo_id).is_dir():
            raise answer(404, RepositoryNotFoundError)
        files = [p for p in (self.root / repo_id).rglob("*") if p.is_file()]
        names = [str(p.relative_to(self.root / repo_id)) for p in files]
        return SimpleNamespace(
            siblings=[SimpleNamespace(rfilename=n, size=p.stat().st_size) for n, p in zip(names, files, strict=True)]
        )

    def snapshot_download(self, repo_id, revision, allow_patterns):
        self.say()
        self.copy(self.root / repo_id, self.cache / repo_id, allow_patterns)
        return str(self.cache / repo_id)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CachingHub:
    """A Hub that everybody is connected to, and a login."""
    made = CachingHub(tmp_path)
    monkeypatch.setattr(hub, "connected", lambda token: made)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: TOKEN)
    return made


@pytest.fixture
def there(fake: CachingHub, tiny_checkpoints: Path) -> CachingHub:
    """The same, with an ensemble on it."""
    shutil.copytree(tiny_checkpoints / "tiny-two", fake.root / ID)
    (fake.root / ID / "malware.py").write_text("raise SystemExit")
    return fake


def test_push_sends_the_ensemble_its_card_and_its_measurements_only(fake: CachingHub, tiny_checkpoints: Path, tmp_path):
    folder = Path(shutil.copytree(tiny_checkpoints / "tiny-two", tmp_path / "made"))
    (folder / "notes.txt").write_text("mine")
    (folder / "measurements").mkdir()
    (folder / "measurements" / "detection.json").write_text("{}")
    assert hub.push(folder, ID, TOKEN) == f"https://huggingface.co/{ID}"
    sent = {str(p.relative_to(fake.root / ID)) for p in (fake.root / ID).rglob("*") if p.is_file()}
    assert sent == {*checkpoints.FILES, "measurements/detection.json"}
    assert fake.private[ID] is True


def test_the_commands_push_and_pull_the_same_ensemble(fake: CachingHub, tiny_checkpoints: Path, tmp_path, capsys):
    source, target = tiny_checkpoints / "tiny-two", tmp_path / "deep" / "pulled"
    assert main(["push", str(source), ID, "--public"]) == 0
    assert capsys.readouterr().out.strip() == f"https://huggingface.co/{ID}" and fake.private[ID] is False
    assert main(["pull", ID, str(target), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == "tiny-two"
    for name in checkpoints.FILES:
        assert (target / name).read_bytes() == (source / name).read_bytes()
    assert main(["pull", ID, str(target)]) == 1
    assert f"{target} is already there; name another folder" in capsys.readouterr().err


def test_load_by_id_takes_no_file_that_is_not_an_ensembles(there: CachingHub):
    assert checkpoints.load(ID).id == "tiny-two"
    assert Checkpoint.from_pretrained(ID).model.config.members == 2
    assert not (there.cache / ID / "malware.py").exists()


def test_a_folder_that_is_here_goes_before_the_hub(there: CachingHub, tiny_checkpoints: Path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_checkpoints / "tiny-three", tmp_path / ID)
    assert checkpoints.load(ID).id == Checkpoint.from_pretrained(ID).id == "tiny-three"


def test_a_checkpoint_pushes_and_saves_itself(fake: CachingHub, tiny_checkpoints: Path, tmp_path: Path):
    made = checkpoints.load(tiny_checkpoints / "tiny-two")
    assert made.push_to_hub(ID) == f"https://huggingface.co/{ID}"
    assert checkpoints.load(ID).detector == made.detector
    assert made.folder == tiny_checkpoints / "tiny-two"  # not where it was written to be sent
    assert checkpoints.load(made.save_pretrained(tmp_path / "saved")).id == "tiny-two"


@pytest.mark.parametrize("name", ["", "x", "a/b/c", "../b", "a/ b", "a/b\nc", "ü/x", None])
def test_ids_that_cannot_be_are_refused_before_anything_is_asked(name):
    assert not hub.is_repository(name)
    with pytest.raises(HubError, match="your-name/name-of-the-ensemble"):
        hub.check_repository(name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h: shutil.rmtree(h.root / ID), f"no repository called {ID} on the Hub, or it is private"),
        (lambda h: (h.root / ID / "model.safetensors").unlink(), "holds no CCE ensemble: it has no model.safetensors"),
        (lambda h: (h.root / ID / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda h: setattr(h, "failing", answer(401)), "the token is not valid"),
        (lambda h: setattr(h, "failing", answer(500)), "answered with an error \\(500"),
        (lambda h: setattr(h, "failing", OSError(28, "No space left on device")), "cannot be written here: No space"),
        (lambda h: setattr(h, "failing", OSError("no route")), "could not be reached"),
    ],
)
def test_a_pull_that_fails_says_why_and_leaves_nothing(there: CachingHub, tmp_path: Path, change, words):
    change(there)
    with pytest.raises(CheckpointError, match=words) as told:
        hub.pull(ID, tmp_path / "pulled", checkpoints.load)
    assert TOKEN not in str(told.value)
    assert not list(tmp_path.glob("*pulled*"))


def test_an_ensemble_that_is_too_large_is_not_fetched(there: CachingHub):
    with pytest.raises(HubError, match="at most 0 MB are fetched"):
        hub.fetch(ID, most_bytes=1000)
    assert not there.cache.exists()


def test_a_push_without_a_token_or_a_right_is_refused(fake: CachingHub, tiny_checkpoints: Path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert main(["push", str(tiny_checkpoints / "tiny-two"), ID]) == 1
    assert "needs an access token" in capsys.readouterr().err
    fake.failing = answer(403)
    with pytest.raises(HubError, match=f"may not write to {ID}") as told:
        hub.push(tiny_checkpoints / "tiny-two", ID, TOKEN)
    assert TOKEN not in str(told.value)


# Without a network


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A login, and a Hub at an address where nobody listens."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{probe.getsockname()[1]}")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: TOKEN)


def test_without_a_network_the_answer_is_quick(nowhere, tiny_checkpoints: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(hub, "_cached", lambda repository, revision: None)
    began = time.monotonic()
    with pytest.raises(HubError, match="the Hub could not be reached"):
        checkpoints.load("someone/none")
    assert main(["pull", "someone/none", str(tmp_path / "x")]) == 1
    assert main(["push", str(tiny_checkpoints / "tiny-two"), ID]) == 1
    assert capsys.readouterr().err.count("the Hub could not be reached") == 2
    assert time.monotonic() - began < 3 * hub.SECONDS + 10


def test_a_hub_that_listens_and_never_answers_is_given_up(nowhere, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(HubError, match="could not be reached"):
            hub.reach(0.5)
        assert time.monotonic() - began < 10


def test_what_was_fetched_before_is_used_without_a_network(nowhere, tiny_checkpoints: Path, monkeypatch):
    monkeypatch.setattr(hub, "_cached", lambda repository, revision: tiny_checkpoints / "tiny-two")
    assert checkpoints.load("someone/fetched-before").id == "tiny-two"


def test_the_switch_that_turns_the_hub_off_is_named(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        hub.reach()


def test_a_public_repository_is_pushed_to_only_where_that_is_said(there, tiny_checkpoints, monkeypatch):
    told = there.model_info
    monkeypatch.setattr(there, "model_info", lambda *a, **k: SimpleNamespace(private=False, **vars(told(*a, **k))))
    before = (there.root / ID / "config.json").stat().st_mtime_ns
    with pytest.raises(HubError, match="is public: everybody would see what is pushed"):
        hub.push(tiny_checkpoints / "tiny-two", ID, TOKEN)
    assert (there.root / ID / "config.json").stat().st_mtime_ns == before
    assert hub.push(tiny_checkpoints / "tiny-two", ID, TOKEN, private=False)
    monkeypatch.setattr(there, "model_info", lambda *a, **k: SimpleNamespace(private=True))
    assert hub.push(tiny_checkpoints / "tiny-two", ID, TOKEN)


@pytest.mark.parametrize("kind", [HfHubHTTPError, RepositoryNotFoundError])
def test_an_expired_token_is_named_as_that(kind, there, tmp_path, capsys):
    there.failing = answer(401, kind)
    assert main(["pull", ID, str(tmp_path / "mine")]) == 1
    told = capsys.readouterr().err
    assert "the token is not valid: it has expired or is mistyped" in told
    assert "write" not in told and "no repository" not in told


def test_a_push_of_a_checkpoint_of_before_carries_no_path(fake, tiny_checkpoints, tmp_path):
    folder = Path(shutil.copytree(tiny_checkpoints / "tiny-two", tmp_path / "made"))
    values = json.loads((folder / "config.json").read_text())
    values["training"]["config"] = {"data_dir": "/home/me/pets"}
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "metrics.json").write_text(json.dumps({"command": "evaluate --data-dir /home/me/pets"}))
    hub.push(folder, ID, TOKEN)
    sent = "".join(p.read_text() for p in (fake.root / ID).rglob("*.json"))
    assert "/home/me" not in sent and "--data-dir pets" in sent
    assert "/home/me/pets" in (folder / "config.json").read_text()  # one's own stays as it is
