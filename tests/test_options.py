from collections.abc import Callable
from dataclasses import dataclass

import pytest

from brainlm_lightning.options import explain_unknown, given_options, known_options, nearest, unknown_options


@dataclass(frozen=True)
class Sizes:
    depth: int = 2
    embed_dim: int = 32


class Net:
    def __init__(self, geometry: float, sizes: Sizes | None = None) -> None: ...


class Other:
    def __init__(self, geometry: float, width: int = 3) -> None: ...


class Task:
    def __init__(
        self, net: Callable[[float], Net] = Net, plan: Sizes = Sizes(), others: dict[str, str] | None = None
    ) -> None: ...


PARSER = ["model", "data.window_frames", "trainer.max_steps"]
MODEL = {"model.class_path": f"{__name__}.Task"}
OPTIONS = {
    "data.window_frames",
    "trainer.max_steps",
    "model.class_path",
    "model.init_args.net.class_path",
    "model.init_args.net.init_args.sizes.depth",
    "model.init_args.net.init_args.sizes.embed_dim",
    "model.init_args.plan.depth",
    "model.init_args.plan.embed_dim",
    "model.init_args.others",
}


def test_options_are_those_of_the_parser_and_of_the_classes_that_are_named():
    assert set(known_options(PARSER, {})) == set(PARSER)
    assert set(known_options(PARSER, MODEL)) == OPTIONS
    width = "model.init_args.net.init_args.width"
    for name in ("model.init_args.net", "model.init_args.net.class_path"):
        known = known_options(PARSER, MODEL | {name: f"{__name__}.Other"})
        assert {name for name in known if ".net.init_args." in name} == {width}


def test_a_command_is_read_from_its_files_and_arguments(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("model: {class_path: a.B, init_args: {others: {}}}\nruns: ${oc.env:NOTHING}\n")
    found = given_options(
        [f"--config={file}", "--data.window_frames", "40", "--trainer.callbacks+=X", "--config", "no"]
    )
    assert found == {
        "model.class_path": "a.B",
        "model.init_args.others": {},
        "runs": "${oc.env:NOTHING}",
        "data.window_frames": "40",
        "trainer.callbacks": "X",
        "config": "no",
    }


def test_what_is_inside_a_mapping_is_free():
    given = dict.fromkeys(["model.init_args.others.mine", "model.init_args.plan", "config", "model.init_args.plam"])
    assert unknown_options(given, list(OPTIONS)) == ["model.init_args.plam"]


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("model.embed_dim", ["model.init_args.plan.embed_dim", "model.init_args.net.init_args.sizes.embed_dim"]),
        ("data.widnow_frames", ["data.window_frames"]),
        ("trainer.max_stpes", ["trainer.max_steps"]),
        ("qqq", []),
    ],
)
def test_the_nearest_options_are_alike_in_their_last_word(option, expected):
    assert nearest(option, sorted(OPTIONS)) == expected


def test_only_options_that_the_error_is_about_are_explained():
    given = MODEL | {"data.widnow_frames": "4", "data.qqq": "5"}
    expected = "unknown option --data.widnow_frames; did you mean --data.window_frames?"
    assert explain_unknown(given, PARSER, "unrecognized arguments: --data.widnow_frames 4") == expected
    assert explain_unknown(given, PARSER, "unrecognized arguments: --data.qqq") == "unknown option --data.qqq"
    assert explain_unknown(given, PARSER, "expected an int") is None
