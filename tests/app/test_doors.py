"""Doors and uploads: who is answered, how much is taken, and when it goes."""

import os
import stat
import time
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from app import uploads
from app.doors import Doors, own_names
from app.uploads import NoRoomError, Uploads, private_folder

LOCAL = "http://127.0.0.1:7860"


def client(tmp_path: Path, host: str = "127.0.0.1", on_space: bool = False, base: str = LOCAL, **most) -> TestClient:
    """What answers 'ok' behind the doors; an upload is read to its end first."""

    async def answer(request: Request) -> PlainTextResponse:
        await request.body()
        return PlainTextResponse("ok")

    routes = [Route(path, answer, methods=["GET", "POST"]) for path in ("/", "/gradio_api/upload")]
    files = Uploads(tmp_path, **most)
    doors = Middleware(Doors, names=own_names(host, ["studio.example"]), uploads=files, on_space=on_space)
    return TestClient(Starlette(routes=routes, middleware=[doors]), base_url=base)


@pytest.mark.parametrize("name", ["127.0.0.1:7860", "localhost:7860", "LOCALHOST", "[::1]:7860", "studio.example"])
def test_a_studio_of_this_machine_answers_to_its_own_names(tmp_path: Path, name: str):
    assert client(tmp_path).get("/", headers={"host": name}).text == "ok"


@pytest.mark.parametrize("name", ["rebound.example:7860", "127.0.0.1.example", "", "localhost.example"])
def test_it_does_not_answer_to_a_name_that_was_made_to_point_here(tmp_path: Path, name: str):
    for ask in (client(tmp_path).get, client(tmp_path).post):
        said = ask("/", headers={"host": name})
        assert said.status_code == 421 and "--allow-host" in said.text


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
    ],
)
def test_the_pages_of_other_sites_cannot_send_anything(tmp_path: Path, headers: dict):
    for host in ("127.0.0.1", "0.0.0.0"):
        said = client(tmp_path, host).post("/gradio_api/upload", headers=headers, content=b"x")
        assert said.status_code == 403 and "other sites" in said.text
        assert client(tmp_path, host).get("/", headers=headers).text == "ok"  # a link from there


@pytest.mark.parametrize(
    ("base", "headers"),
    [
        (LOCAL, {}),
        (LOCAL, {"origin": LOCAL, "sec-fetch-site": "same-origin"}),
        ("http://192.168.0.7:7860", {"origin": "http://192.168.0.7:7860"}),
        ("http://10.0.0.1:7860", {"origin": "https://lab.example", "x-forwarded-host": "lab.example"}),
    ],
)
def test_its_own_page_programs_and_a_proxy_can(tmp_path: Path, base: str, headers: dict):
    host = "127.0.0.1" if base == LOCAL else "0.0.0.0"
    assert client(tmp_path, host, base=base).post("/gradio_api/upload", headers=headers, content=b"x").text == "ok"


def test_a_space_is_open_to_the_pages_of_others(tmp_path: Path):
    there = client(tmp_path, "0.0.0.0", on_space=True, base="http://someone-studio.hf.space")
    assert there.post("/gradio_api/upload", headers={"origin": "https://huggingface.co"}, content=b"x").text == "ok"


def test_the_files_of_one_upload_count_together_said_or_not(tmp_path: Path):
    there = client(tmp_path, most_request=1000)
    files = [("files", (f"{i}.png", b"x" * 400)) for i in range(4)]
    said = there.post("/gradio_api/upload", files=files)
    assert said.status_code == 413 and "all its files together" in said.text
    said = there.post("/gradio_api/upload", content=(b"x" * 100 for _ in range(20)))  # its length is not told before
    assert said.status_code == 413
    assert there.post("/gradio_api/upload", content=b"x" * 900).text == "ok"


def test_a_visitor_has_a_total_and_others_have_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    files = Uploads(tmp_path, most_request=100, most_visitor=250)
    files.admit("one", 100), files.admit("one", 100)
    with pytest.raises(NoRoomError, match="within an hour.*Try again in 60 minutes") as told:
        files.admit("one", 100)
    assert told.value.status == 429
    files.admit("two", 100)
    monkeypatch.setattr(uploads, "WINDOW_SECONDS", 0.0)
    files.admit("one", 100)
    for i in range(3000):
        files.admit(f"visitor {i}", 1)
    assert len(files._visitors) == 1000


def put(folder: Path, name: str, size: int, age: float) -> Path:
    path = folder / name / "file"
    path.parent.mkdir()
    path.write_bytes(b"x" * size)
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_old_files_go_and_the_oldest_where_room_is_short_but_not_the_page_s_own(tmp_path: Path):
    very_old, shown = put(tmp_path, "very-old", 10, 7 * 3600), put(tmp_path, "shown", 10, 7 * 3600)
    older, newer, fresh = (
        put(tmp_path, "older", 400, 1000),
        put(tmp_path, "newer", 400, 500),
        put(tmp_path, "new", 80, 1),
    )
    files = Uploads(tmp_path, lambda: [str(shown)], most_request=200, most_all=1000)
    files.admit("one", 100)
    assert not very_old.parent.exists() and shown.exists() and older.exists()
    files.admit("one", 200)
    assert not older.exists() and newer.exists() and fresh.exists()


def test_without_room_nothing_is_taken(tmp_path: Path):
    put(tmp_path, "new", 950, 1)
    said = client(tmp_path, most_request=100, most_all=1000).post("/gradio_api/upload", content=b"x" * 60)
    assert said.status_code == 507 and "no room" in said.text


def test_temporary_folders_are_private_and_those_of_the_dead_go(tmp_path: Path):
    base = tmp_path / "tmp"
    base.mkdir(mode=0o755)
    dead, other = base / "process-999999999", base / "else"
    dead.mkdir(), other.mkdir()
    own = Path(private_folder(str(base)))
    assert own == base / f"process-{os.getpid()}" and not dead.exists() and other.exists()
    assert {stat.S_IMODE(p.stat().st_mode) for p in (base, own)} == {0o700}
    assert private_folder(str(base)) == str(own)
    (tmp_path / "link").symlink_to(base)
    elsewhere = Path(private_folder(str(tmp_path / "link")))
    assert elsewhere.parent != base and stat.S_IMODE(elsewhere.stat().st_mode) == 0o700
    elsewhere.rmdir()
