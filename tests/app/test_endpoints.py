"""The public endpoints, asked by gradio_client as anyone would."""

import asyncio
import base64
import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from safetensors.torch import load_file, save_file

from app.interface import build, launch_settings
from app.services.models import Registry
from app.studio import Studio
from cce.config import AttackConfig
from cce.data.datasets import Dataset
from cce.data.pictures import to_png
from cce.evaluation import one_picture as examples
from cce.evaluation.transferability import transferability

ATTACK = {"model": "tiny-two", "attack": "pgd", "epsilon": 38.25, "step_size": 9.5625, "steps": 8, "seed": 3}
CONFIG = AttackConfig("pgd", 38.25 / 255, 9.5625 / 255, 8)


@pytest.fixture(scope="module")
def url(studio: Studio) -> Iterator[str]:
    demo = build(studio)
    settings = launch_settings() | {"prevent_thread_lock": True, "mcp_server": find_spec("mcp") is not None}
    _, address, _ = demo.launch(server_name="127.0.0.1", server_port=None, **settings)
    yield address
    demo.close()


@pytest.fixture(scope="module")
def client(url: str) -> Client:
    return Client(url, verbose=False)


def test_the_endpoints_are_named_and_take_what_they_should(client: Client):
    described = client.view_api(return_format="dict", print_info=False)
    assert not described["unnamed_endpoints"]
    taken = {
        name: [p["parameter_name"] for p in endpoint["parameters"]]
        for name, endpoint in described["named_endpoints"].items()
    }
    ours = ("/models", "/classify", "/attack")
    assert {name: taken[name] for name in ours} == {
        "/models": [],
        "/classify": ["image", "model"],
        "/attack": ["image", "label", "model", "attack", "epsilon", "step_size", "steps", "target", "seed"],
    }


def test_models(client: Client):
    rows = client.predict(api_name="/models")
    assert [row["id"] for row in rows] == ["tiny-three", "tiny-two"]
    assert set(rows[0]) == {
        *("id", "dataset", "architecture", "members", "defense"),
        *("natural_accuracy", "robust_accuracy", "detection_auc", "threshold", "wrong_and_unflagged", "benign_flagged"),
    }


def test_classify(client: Client, registry: Registry, digits: Dataset, digit_png: Path):
    answer = client.predict(handle_file(digit_png), "tiny-two", api_name="/classify")
    assert set(answer) == {"classes", "members", "ensemble", "label", "entropy", "threshold", "flagged"}
    assert answer == examples.classify(registry.get("tiny-two"), digits.test.pixels()[3])


def test_attack_gives_a_lossless_picture_with_the_same_figures_when_it_comes_back(
    client: Client, registry: Registry, digits: Dataset, digit_png: Path
):
    path, result = client.predict(image=handle_file(digit_png), label="auto", **ATTACK, api_name="/attack")
    x = digits.test.pixels()[3]
    wanted, said = examples.attack_picture(registry.get("tiny-two"), x, None, CONFIG, seed=3)
    with Image.open(path) as image:
        assert (image.format, image.size) == ("PNG", (8, 8))
        pixels = np.asarray(image.convert("L"))
    assert torch.equal(torch.from_numpy(pixels.copy()).float() / 255, wanted[0])
    assert result == json.loads(json.dumps(said))
    assert {"label", "benign", "adversarial", "subset", "succeeded", "linf", "trajectory"} <= set(result)
    again = client.predict(handle_file(path), "tiny-two", api_name="/classify")
    assert again == result["adversarial"]


def test_attack_takes_a_label_a_member_and_its_defaults(client: Client, digit_png: Path):
    _, result = client.predict(
        image=handle_file(digit_png), label="7", model="tiny-three", target="member 3", steps=2, api_name="/attack"
    )
    assert result["label"] == "7"
    assert result["linf"] <= 8 / 255 + 1e-6
    assert len(result["subset"]) == 4
    assert result["benign"]["flagged"] is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "nobody"}, "There is no model 'nobody'"),
        ({"epsilon": 300}, "Epsilon is 300; it is a number from 0 to 255"),
        ({"steps": 100000}, "The number of steps is 100000"),
        ({"label": "cat"}, "The label is 'cat'"),
        ({"target": "member 9"}, "this ensemble has 2 members"),
    ],
)
def test_what_cannot_be_done_is_said_in_words(client: Client, digit_png: Path, change: dict, words: str):
    with pytest.raises(AppError, match=words):
        client.predict(
            image=handle_file(digit_png), label=change.pop("label", "auto"), **(ATTACK | change), api_name="/attack"
        )


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("text.png", b"hello, this is no picture", "text file, not a picture"),
        ("empty.png", b"", "empty"),
        ("cut.png", to_png(torch.rand(3, 64, 64))[:3000], "damaged or incomplete"),
    ],
)
def test_bad_uploads_are_told_what_is_wrong(client: Client, tmp_path: Path, name: str, content: bytes, words: str):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(AppError, match=words):
        client.predict(handle_file(path), "tiny-two", api_name="/classify")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_huge_picture_is_refused_from_its_header(client: Client, tmp_path: Path):
    path = tmp_path / "huge.png"
    Image.new("1", (12000, 12000)).save(path)
    with pytest.raises(AppError, match="12000x12000 pixels, which is too large"):
        client.predict(handle_file(path), "tiny-two", api_name="/classify")


def test_transferability(client: Client, registry: Registry, digits: Dataset):
    settings = {"attack": "pgd", "epsilon": 38.25, "step_size": 12.75, "steps": 3, "seed": 1}
    answer = client.predict(model="tiny-two", count=12, **settings, api_name="/transferability")
    test = digits.test.first(12)
    config = AttackConfig("pgd", 38.25 / 255, 12.75 / 255, 3)
    wanted = transferability(registry.get("tiny-two").model, test.pixels(), test.labels, config, seed=1)
    assert {"a", "subsets", "T", "nT", "a_single", "images", "data"} <= set(answer)
    assert answer["a"] == [list(row) for row in wanted.a] and answer["T"] == wanted.transferability
    assert sum(answer["subsets"].values()) == pytest.approx(1) and answer["images"] == 12
    assert sum(n for row in answer["flow"].values() for n in row.values()) == 12
    with pytest.raises(AppError, match="The number of images is 0; it is a whole number from 1 to 2,000"):
        client.predict(model="tiny-two", count=0, **settings, api_name="/transferability")


def test_nobody_passes_by_the_queue(url: str):
    body = json.dumps({"data": []}).encode()
    request = urllib.request.Request(f"{url}gradio_api/run/models", body, {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=60)
    assert refused.value.code == 404


def test_plotly_comes_from_this_app(url: str):
    with urllib.request.urlopen(f"{url}studio/plotly.min.js", timeout=60) as answer:
        assert answer.headers["Content-Type"].startswith("text/javascript")
        assert b"plotly.js" in answer.read(400)


def test_an_assistant_finds_the_tools_and_attacks(url: str, digits: Dataset, registry: Registry):
    mcp = pytest.importorskip("mcp", reason="the optional extra mcp is not installed")
    from mcp.client.streamable_http import streamable_http_client

    x = digits.test.pixels()[3]
    image = "data:image/png;base64," + base64.b64encode(to_png(x)).decode()

    async def ask() -> tuple[dict, str]:
        async with streamable_http_client(f"{url}gradio_api/mcp/") as (read, write, _):
            async with mcp.ClientSession(read, write) as session:
                await session.initialize()
                tools = {tool.name: tool for tool in (await session.list_tools()).tools}
                answer = await session.call_tool("attack", {"image": image, "label": "auto", **ATTACK})
                assert not answer.isError, answer.content
                return tools, "".join(part.text for part in answer.content if part.type == "text")

    tools, answer = asyncio.run(ask())
    assert {"models", "classify", "attack", "surface", "detection", "transferability", "runs", "run"} == set(tools)
    asked = tools["attack"].inputSchema
    assert set(asked["properties"]) == {"image", "label", "seed", *ATTACK, "target"}
    assert "in 1/255" in asked["properties"]["epsilon"]["description"]
    _, said = examples.attack_picture(registry.get("tiny-two"), x, None, CONFIG, seed=3)
    assert f"'subset': '{said['subset']}'" in answer and f"'succeeded': {said['succeeded']}" in answer
    assert not {name for name in tools if "train" in name or "delete" in name or "start" in name}


def test_an_ensemble_with_outputs_that_are_not_finite_gives_no_verdict(tiny_checkpoints: Path, tmp_path: Path):
    """Weights that are finite and a variance below zero: it is left out and named, the others go on."""
    shutil.copytree(tiny_checkpoints, tmp_path / "checkpoints")
    path = tmp_path / "checkpoints" / "tiny-two" / "model.safetensors"
    weights = load_file(path)
    weights["members.1.stem.norm.running_var"][0] = -1
    save_file(weights, path)
    registry = Registry([path.parents[1]], "cpu")
    assert [row["id"] for row in registry.summaries()] == ["tiny-three"]
    assert "the outputs of f2 are not finite" in str(registry.broken())
