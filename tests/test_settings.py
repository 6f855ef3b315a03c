from brainlm_lightning.settings import TRAINED, differences, flatten, of_the_fit, of_the_model


class Task:
    """What its test alone needs is no part of a fitted model."""

    test_options = ("test_ratios", "compare_with")


PATH = f"{__name__}.Task"
SETTINGS = {
    "seed_everything": 3,
    "trainer": {"max_steps": 10, "devices": 2, "logger": None, "callbacks": [{"class_path": "a.Stop"}]},
    "model": {
        "class_path": PATH,
        "init_args": {"pretrained": "runs/a", "head": {"hidden": 4}, "test_ratios": [0.5], "compare_with": {"b": "c"}},
    },
    "data": {"cohorts": "ukb", "test_cohorts": ["hcp"], "window_frames": 200, "num_workers": 4, "micro_batch_size": 2},
    "experiment": "mine",
    "runs": "runs",
}


def test_nested_settings_have_full_names():
    assert flatten({"a": {"b": {"c": 1}, "d": {}}, "e": [2]}) == {"a.b.c": 1, "a.d": {}, "e": [2]}


def test_a_model_is_its_seed_its_settings_and_its_data():
    assert of_the_model(SETTINGS) == {
        "seed_everything": 3,
        "model": {"class_path": PATH, "init_args": {"pretrained": "runs/a", "head": {"hidden": 4}}},
        "data": {"cohorts": "ukb", "window_frames": 200},
    }


def test_a_fit_depends_on_what_the_trainer_does_and_not_on_where():
    found = of_the_fit(SETTINGS)
    expected = {
        "seed_everything": 3,
        "model.class_path": PATH,
        "model.init_args.head.hidden": 4,
        "data.cohorts": "ukb",
        "data.window_frames": 200,
        "trainer.max_steps": 10,
        "trainer.callbacks": [{"class_path": "a.Stop"}],
    }
    assert {name: value for name, value in found.items() if value is not None} == expected
    assert {name for name in found if name not in expected} <= {f"trainer.{name}" for name in TRAINED}


def test_differences_name_what_changed_came_and_went():
    was, now = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "e": 5}
    assert differences(was, now) == {"a.c": (2, 4), "d": (3, None), "e": (None, 5)}
    assert differences(was, was) == {}
