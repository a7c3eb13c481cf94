"""A file over the upload limit is answered in words with the limit and the way out, by page and by client."""

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from app import interface, upload_limit


def client(status):
    async def upload(request):
        return PlainTextResponse("File size exceeded maximum allowed size of 26214400 bytes.", status_code=status)

    made = Starlette(routes=[Route("/upload", upload, methods=["POST", "GET"])], middleware=MIDDLEWARE)
    return TestClient(made)


MIDDLEWARE = [m for m in interface.launch_settings()["app_kwargs"]["middleware"] if m.cls is upload_limit.TellTooLarge]


def test_a_413_is_told_in_words():
    assert isinstance(MIDDLEWARE[0], Middleware)
    answer = client(413).post("/upload")
    assert answer.status_code == 413 and answer.text == upload_limit.WORDS
    assert "larger than 25 MB" in answer.text and "Make the picture smaller" in answer.text


def test_other_answers_are_left_alone():
    assert client(200).post("/upload").text.startswith("File size exceeded")
    assert client(413).get("/upload").text.startswith("File size exceeded")


def test_the_limit_is_named_before_it_is_hit(studio):
    page = interface.build(studio)
    labels = [b.label for b in page.blocks.values() if b.get_block_name() == "file"]
    assert labels and all("at most 25 MB" in label for label in labels)
    assert interface.launch_settings()["max_file_size"] == "25mb"
