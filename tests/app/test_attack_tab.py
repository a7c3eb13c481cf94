"""The Attack tab without a browser: replays, links, two models, one member at a time, and what the panels hold."""

import base64
import json
import shutil
from dataclasses import replace

import gradio as gr
import pytest
import torch

from app import long_work
from app.figures import replay as replay_figure
from app.figures import side_by_side, trajectory
from app.services import attacks, links, partners, zero_gpu
from app.services.models import Registry
from app.services.replay import MOST_STOPS, replay, seen_by, to_bytes
from app.services.work import CancelledWork, Work
from app.studio import Studio
from app.tabs import attack, attack_controls, attack_results, picture_picker
from app.tabs.attack_controls import config_of
from cce.checkpoints import folder as checkpoints
from cce.checkpoints.folder import Checkpoint, CheckpointError
from cce.config import ATTACKS, AttackConfig, ConfigError

PGD = AttackConfig("pgd", 0.15, 0.04, 6)


@pytest.fixture
def two(studio: Studio) -> Checkpoint:
    return studio.registry.get("tiny-two")


@pytest.fixture
def picture(studio: Studio, two: Checkpoint) -> attacks.Picture:
    return picture_picker.from_gallery(studio.collection(two), 3)


# Replays


def test_a_replay_goes_from_the_picture_by_every_step_to_the_result(two, picture):
    made = attacks.attack_in_steps(two, picture.pixels, picture.label, PGD, 1)
    stops = replay(picture.pixels, made)
    names = [stop.name for stop in stops]
    assert names[0] == "before the attack" and names[-1] == "the result, after 6 steps"
    assert names[1:4] == ["the start", "step 1 of 6", "step 2 of 6"]
    named = [stop.name for stop in replay(picture.pixels, made, "pgd")]
    assert named[1] == "random start: plain noise, no step yet" and named[2:] == names[2:]
    assert stops[0].said == made.result["benign"] and stops[-1].said == made.result["adversarial"]
    assert torch.equal(stops[0].pixels, to_bytes(picture.pixels))
    assert torch.equal(stops[-1].pixels.float() / 255, made.x_adv)
    walked = [row["entropy"] for row in made.result["trajectory"]]
    assert [stop.said["entropy"] for stop in stops[1:-1]] == walked[: len(stops) - 2]
    assert [stop.last for stop in stops] == [False] * (len(stops) - 1) + [True]


def test_a_start_that_is_the_picture_is_not_shown_twice(two, picture):
    made = attacks.attack_in_steps(two, picture.pixels, picture.label, AttackConfig("bim", 0.15, 0.04, 3))
    assert [stop.name for stop in replay(picture.pixels, made)][:2] == ["before the attack", "step 1 of 3"]
    single = attacks.attack_in_steps(two, picture.pixels, picture.label, AttackConfig("fgsm", 0.15))
    assert [stop.name for stop in replay(picture.pixels, single)] == ["before the attack", "the result"]


def test_a_long_attack_is_thinned_evenly_and_keeps_its_ends(two, picture):
    made = attacks.attack_in_steps(two, picture.pixels, picture.label, AttackConfig("pgd", 0.15, 0.002, 130))
    names = [stop.name for stop in replay(picture.pixels, made)]
    assert len(names) == len(set(names)) == MOST_STOPS
    assert names[1] == "the start" and names[-1] == "the result, after 130 steps"


def test_another_ensemble_sees_the_same_pictures(studio, two, picture):
    stops = replay(picture.pixels, attacks.attack_in_steps(two, picture.pixels, picture.label, PGD))
    three = studio.registry.get("tiny-three")
    seen = seen_by(three, stops, picture.label)
    assert [s.name for s in seen] == [s.name for s in stops]
    assert all(len(s.said["members"]) == 3 and len(s.subset) == 4 for s in seen)
    assert seen[-1].said == attacks.classify(three, stops[-1].pixels.float() / 255)


def test_work_that_is_told_to_stop_leaves_the_attack_at_its_next_step(two, picture):
    work, told = Work(), []

    def tell(what: str, fraction: float) -> None:
        told.append(fraction)
        if len(told) == 3:
            work.cancel()
        work.tell(what, fraction)

    with pytest.raises(CancelledWork):
        attacks.attack_in_steps(two, picture.pixels, picture.label, AttackConfig("pgd", 0.15, 0.01, 400), 0, tell)
    assert len(told) == 3
    assert not any(member._forward_pre_hooks for member in two.model.members)


# What the slider is given


def test_the_slider_s_value_holds_every_picture_and_each_panel_once(studio, two, picture):
    done = attack.attack(studio, Work(), "tiny-two", picture, PGD, 0, None, "same")
    panels = attack_results.show(two, picture, done)
    value = panels[2]
    count, height, width, channels = value["shape"]
    assert (count, height, width, channels) == (len(done.stops), 8, 8, 1)
    frames = base64.b64decode(value["frames"])
    assert frames[-64:] == bytes(to_bytes(done.made.x_adv).flatten().tolist())
    assert base64.b64decode(value["benign"]) == bytes(to_bytes(picture.pixels).flatten().tolist())
    assert value["key"] in panels[1]
    last = value["stops"][-1]
    assert value["panels"]["verdict"][last["html"]["verdict"]] == panels[0]
    assert value["panels"]["answers"][last["html"]["answers"]] == panels[4]
    assert len(value["panels"]["subsets"]) <= len(value["stops"])
    bars, _, traces = last["plots"]["probabilities"]
    assert traces == [3, 4, 5]
    assert bars["x"][2] == pytest.approx(done.made.result["adversarial"]["ensemble"], abs=1e-4)
    assert value["link"] == done.link
    json.dumps(value)


def test_colours_travel_pixel_by_pixel():
    x = torch.arange(12, dtype=torch.uint8).reshape(3, 2, 2)
    said = {"members": [[1.0, 0.0]], "ensemble": [1.0, 0.0], "classes": ["a", "b"], "entropy": 0.1, "flagged": None}
    place = replay_figure.Place("the result", x, said, "", "")
    value = replay_figure.value("k", x, [place], ["b", "a"], 4, "?")
    assert list(base64.b64decode(value["frames"]))[:6] == [0, 4, 8, 1, 5, 9]
    assert value["stops"][0]["plots"]["probabilities"][0]["x"] == [[0.0, 1.0], [0.0, 1.0]]


def test_before_an_attack_the_panels_wait(two, picture):
    panels = attack_results.show(two, picture)
    assert panels[2] == {} and panels[3] == "" and "Press Attack to see" in panels[0]
    assert panels[6] == '<div class="studio-swap"></div>'
    assert "nothing yet" in panels[12]["description"]


def test_without_a_label_nobody_is_right_or_wrong_and_there_is_no_subset(studio, two, picture):
    mine = replace(picture, label=None, dataset=None, name="your picture")
    done = attack.attack(studio, Work(), "tiny-two", mine, PGD, 0, "tiny-three", "same")
    for panels in (attack_results.show(two, mine), attack_results.show(two, mine, done)):
        html = "".join(str(panels[i]) for i in (0, 1, 4, 5, 6))
        assert not any(mark in html for mark in ("✓", "✗", "S11", "S00", "right<", "wrong<"))
        assert "✓" not in json.dumps(panels[10], ensure_ascii=False) and "true class" not in panels[10]["description"]
        assert "the members" in panels[5] and "Say on the left what the picture shows" in panels[5]
    assert "Your picture</h3>" in attack_results.show(two, mine)[0]
    told = attack_results.show(two, replace(mine, said=picture.label))
    assert "S11" in told[5] and "right" in told[4]


def test_the_slider_knows_the_settings_of_its_result(studio, two, picture):
    typed = ("", None, *attack_controls.typed_of(two, PGD, 4))
    assert typed[2:7] == ("pgd", "linf", 38.25, 10.2, 6) and typed[-1] == 4
    assert attack_controls.typed_of(two, AttackConfig("fgsm", 0.15), 4)[3:5] == (None, None)  # not in sight
    done = replace(attack.attack(studio, Work(), "tiny-two", picture, PGD, 0, None, "same"), typed=typed)
    assert attack_results.show(two, picture, done)[2]["typed"] == list(typed)


def test_noise_is_as_large_as_the_attack_and_the_same_under_a_seed(two, picture):
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attacks, "classify", lambda checkpoint, pixels: seen.append(pixels))
        for seed in (1, 1, 2):
            attacks.same_size_noise(two, torch.full_like(picture.pixels, 0.5), PGD, seed)
        attacks.same_size_noise(two, torch.full_like(picture.pixels, 0.5), AttackConfig("pgd", 0.4, 0.1, 3, norm="l2"))
    assert torch.allclose((seen[0] - 0.5).abs(), torch.tensor(0.15))
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])
    assert (seen[3] - 0.5).norm().item() == pytest.approx(0.4, rel=1e-4)


def test_a_seed_that_is_no_whole_number_is_refused(two):
    typed = ("pgd", "linf", 8, 2, 5, "ensemble", "probabilities", 1, -1)
    with pytest.raises(ConfigError, match="The seed is 1.5"):
        config_of((*typed, 1.5))
    form = gr.Blocks()
    with form:
        controls = attack_controls.build_more(two, PGD, attack_controls.build(two, PGD))
    assert controls.seed.precision is None  # what is typed arrives as it is typed


def test_the_downloads_are_the_picture_the_perturbation_and_the_numbers(studio, two, picture):
    done = attack.attack(studio, Work(), "tiny-two", picture, PGD, 5, "", "same")
    html = attack_results.show(two, picture, done)[3]
    text = html.split("data:application/json;base64,")[1].split('"')[0]
    numbers = json.loads(base64.b64decode(text))
    assert numbers["attack"]["name"] == "pgd" and numbers["seed"] == 5 and numbers["picture"] == picture.key
    assert numbers["result"] == json.loads(json.dumps(done.made.result))
    moved = torch.tensor(numbers["perturbation"])
    assert moved.shape == picture.pixels.shape
    assert torch.equal((to_bytes(picture.pixels).int() + moved).to(torch.uint8), to_bytes(done.made.x_adv))
    assert 'download="tiny-two-pgd-epsilon-38_25.png"' in html


def test_the_way_of_the_attack_is_drawn_and_tabled(two, picture):
    made = attacks.attack_in_steps(two, picture.pixels, picture.label, PGD)
    stops = replay(picture.pixels, made)
    said, names = [s.said for s in stops], [s.name for s in stops]
    figure = trajectory.figure(picture.label, names, said, 2)
    lines = [trace["y"] for trace in figure["data"]]
    assert len(lines) == 4
    place = two.classes.index(picture.label)
    assert lines[2][-1] == pytest.approx(made.result["adversarial"]["ensemble"][place])
    assert lines[3][-1] == pytest.approx(made.result["adversarial"]["entropy"])
    table = trajectory.numbers(picture.label, names, said, [s.subset for s in stops])
    assert "the result, after 6 steps" in table and made.result["subset"] in table


# Two models, and one member at a time


def test_only_ensembles_of_the_same_pictures_and_classes_fit_beside(studio, tiny_checkpoints, tmp_path):
    assert [entry.id for entry in partners.partners(studio.registry, "tiny-two")] == ["tiny-three"]
    other = studio.registry.get("tiny-two")
    renamed = Checkpoint("renamed", other.model, "digits", tuple("abcdefghij"), other.defense, {}, None)
    checkpoints.save(renamed, tmp_path / "renamed")
    registry = Registry([tiny_checkpoints, tmp_path / "renamed"], "cpu")
    assert [entry.id for entry in partners.partners(registry, "tiny-two")] == ["tiny-three"]
    assert list(registry._loaded) == ["tiny-two"]  # the list of others loads none of them


def test_an_ensemble_that_would_not_load_is_not_offered_again(tiny_checkpoints, tmp_path):
    for name in ("tiny-two", "tiny-three"):
        shutil.copytree(tiny_checkpoints / name, tmp_path / name)
    (tmp_path / "tiny-three" / "model.safetensors").write_bytes(b"cut")
    registry = Registry([tmp_path], "cpu")
    with pytest.raises(CheckpointError):
        registry.get("tiny-three")
    assert partners.partners(registry, "tiny-two") == []


@pytest.mark.parametrize("mode", ["same", "each"])
def test_two_models_look_at_one_example_or_each_at_its_own(studio, two, picture, mode):
    done = attack.attack(studio, Work(), "tiny-two", picture, PGD, 0, "tiny-three", mode)
    three = studio.registry.get("tiny-three")
    if mode == "same":
        assert done.second.stops[-1].said == attacks.classify(three, done.made.x_adv)
    else:
        wanted, result = attacks.attack(three, picture.pixels, picture.label, PGD)
        assert torch.equal(done.second.made.x_adv, wanted)
        assert done.second.stops[-1].said == result["adversarial"]
    html = attack_results.show(two, picture, done)[6]
    assert "2 × resnet8" in html and "3 × resnet8" in html
    assert html.count("<img") == (2 if mode == "each" else 0)


def test_each_member_is_attacked_and_shown_to_all(two, picture):
    told = []
    rows = partners.one_by_one(two, picture.pixels, picture.label, PGD, 2, lambda what, f: told.append((what, f)))
    assert [row.target for row in rows] == ["member 1", "member 2", "ensemble"]
    for row in rows:
        config = AttackConfig("pgd", 0.15, 0.04, 6, row.target)
        x_adv, result = attacks.attack(two, picture.pixels, picture.label, config, 2)
        assert torch.equal(row.pixels, x_adv) and row.subset == result["subset"]
        assert row.right == [*(bit == "1" for bit in row.subset[1:]), result["adversarial"]["label"] == picture.label]
    fractions = [fraction for _, fraction in told]
    assert fractions == sorted(fractions) and {what for what, _ in told} >= {"Attacking member 2"}
    html = side_by_side.crossing(rows, picture.label, "Examples made with PGD.")
    assert html.count("<img") == 3 and "made on <b>f2</b>" in html


def test_attacks_that_know_no_member_are_replaced_by_pgd():
    config = partners.per_member(AttackConfig("autoattack", 0.1), "digits")
    assert (config.name, config.epsilon) == ("pgd", 0.1)
    assert partners.per_member(PGD, "digits") == PGD


@pytest.mark.parametrize(
    ("right", "words"),
    [
        ([[False, True, True], [True, False, True]], "other than 7 of their own example; 0 of 2"),
        ([[False, False, False], [True, True, True]], "1 of 2 members say something other than 7"),
        ([[False, False]], "The one member is fooled by its own example."),
    ],
)  # fmt: skip
def test_how_far_examples_transfer_in_words(right, words):
    rows = [partners.MadeOn("member 1", torch.zeros(1), {}, "", r) for r in right]
    assert words in side_by_side.crossing_sentence(rows, "7")


# Controls


def test_the_list_of_attacks_says_which_are_slow_and_leaves_out_what_is_not_installed():
    titles = {name: title for title, name in attacks.choices()}
    assert titles["pgd"] == "PGD" and "slow" not in attacks.explain("pgd")
    slow = [name for name in titles if ATTACKS[name].slow]
    assert slow and all("(slow)" in titles[name] for name in slow)
    assert all("Cancel stops it" in attacks.explain(name) for name in slow)


@pytest.mark.parametrize("name", ATTACKS)
def test_controls_out_of_sight_change_nothing(two, name):
    config = AttackConfig(
        "pgd", 0.1, 0.02, 7, "member 2", norm="linf", objective="logits" if name == "" else "probabilities"
    )
    made = attack_controls.settings_of(two, config)
    assert len(made) == 12
    typed = (name, "l2", 20, 5, 7, "member 2", "logits", 3, 4, 9)
    found, seed = config_of(typed)
    info = ATTACKS[name]
    assert found.name == name
    assert found.norm == ("l2" if "l2" in info.norms else "linf")
    assert found.target == ("member 2" if info.member else "ensemble")
    assert found.objective == ("logits" if info.objective else "probabilities")
    assert found.restarts == (3 if info.restarts else 1)
    assert found.toward == (4 if info.targeted else None)
    assert seed == (9 if info.random else 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"restarts": 0}, "The number of restarts is 0; it is a whole number from 1 to 20"),
        ({"norm": "l7"}, "The norm is 'l7'; there is linf and l2"),
        ({"norm": "l2", "epsilon": 1300}, "Epsilon is 1300; it is a number from 0 to 1275"),
    ],
)
def test_more_settings_that_cannot_be_used_are_named(change, words):
    with pytest.raises(ConfigError, match=words):
        attacks.settings(**({"attack": "pgd", "epsilon": 8, "step_size": 2, "steps": 5} | change))


# Links


def setting(two: Checkpoint, search: str, fits: tuple[str, ...] = ("tiny-three",)) -> links.Setting:
    return links.setting_of(links.read(search), "tiny-two", two, list(fits))


@pytest.mark.parametrize(
    "config",
    [
        PGD,
        AttackConfig("mim", 8 / 255, 2 / 255, 9, "member 2"),
        AttackConfig("pgd", 0.5, 0.1, 4, norm="l2", restarts=2, toward=3),
        AttackConfig("autoattack", 4 / 255, 0),
    ],
)
def test_a_link_comes_back_as_the_setting_it_was_made_from(two, config):
    made = links.Setting("tiny-two", "cat", "7", config, 3, "tiny-three", "each")
    search = links.query(made, two.classes)
    back = setting(two, search)
    assert not back.problems
    assert (back.model, back.image, back.label, back.beside, back.show) == (
        "tiny-two",
        "cat",
        "7",
        "tiny-three",
        "each",
    )
    assert back.config == links.setting_of(links.read(search), "tiny-two", two, ["tiny-three"]).config
    for name in ("name", "norm", "target", "restarts", "toward"):
        assert getattr(back.config, name) == getattr(config, name)
    assert back.config.epsilon == pytest.approx(config.epsilon, abs=1e-6)
    assert back.run is not ATTACKS[config.name].slow


def test_a_test_picture_brings_its_own_class(two, picture):
    made = links.Setting("tiny-two", picture.key, picture.label, PGD)
    assert "label" not in links.query(made, two.classes)


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ("?attack=nonsense", "There is no attack 'nonsense'; PGD is shown."),
        ("?attack=pgd&epsilon=900", "Epsilon is 900; it is a number from 0 to 255"),
        ("?epsilon=eight", "Epsilon is 'eight'"),
        ("?steps=-1", "The number of steps is -1"),
        ("?norm=l9", "PGD has no norm 'l9'"),
        ("?target=member 9", "This model has no member 9."),
        ("?target=nobody", "target is 'nobody'"),
        ("?label=zebra", "This model has no class 'zebra'."),
        ("?toward=zebra", "No attack towards 'zebra' here."),
        ("?seed=1.5", "The seed is 1.5"),
        ("?beside=nobody", "'nobody' cannot be shown beside this model."),
    ],
)
def test_what_a_link_says_wrong_is_told_and_the_rest_is_as_usual(two, search, words):
    found = setting(two, search)
    assert any(words in problem for problem in found.problems), found.problems
    assert found.config == attacks.used_settings(
        "pgd", epsilon=38.25, step_size=9.5625, steps=20, target="ensemble", norm="linf"
    )


def test_a_link_s_picture_is_found_with_its_page_or_not_at_all(studio, two):
    pictures = studio.collection(two)
    start = pictures.split.start
    found, page = links.picture_of(f"test:{start + 45}", pictures, two)
    assert torch.equal(found.pixels, pictures.pixels(45)) and page == 2
    assert links.picture_of(f"test:{start + 10**6}", pictures, two) is None
    assert links.picture_of("../../etc/passwd", pictures, two) is None
    named, page = links.picture_of("cat", pictures, two)
    assert (named.name, named.label, page) == ("cat", None, 0)


def test_an_address_that_says_nothing_to_us_changes_nothing():
    assert links.read("?__theme=dark&utm_source=x") == {}


def test_on_zero_gpu_long_work_gets_its_gpu_and_keeps_its_answer(monkeypatch: pytest.MonkeyPatch):
    lent = []

    def lend(function):
        lent.append(function.__name__)
        return function

    monkeypatch.setattr(zero_gpu, "decorator", lambda: lend)
    compute = long_work._with_gpu(lambda work, a, b: [work.cancelled, a + b])
    assert compute(Work(), 2, 3) == [False, 5] and lent == ["alone"]
    stopped = Work()
    stopped.cancel()
    with pytest.raises(CancelledWork):
        compute(stopped, 2, 3)


def test_without_zero_gpu_long_work_stays_as_it_is():
    def compute(work):
        return []

    assert long_work._with_gpu(compute) is compute
