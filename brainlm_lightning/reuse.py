"""Whether an existing run can be reused: it was made with the same settings, models and recordings."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.data.store import read_metadata, store_root
from brainlm_lightning.provenance import sha256_of
from brainlm_lightning.run_folder import find_checkpoint, read_json
from brainlm_lightning.settings import Settings, differences, flatten, of_the_fit, read_settings, with_defaults

PRETRAINED = "checkpoint of model.init_args.pretrained (sha256)"
OF_THE_MACHINE = ("num_workers", "eval_batch_size", "micro_batch_size")
RECORDINGS = "recordings of {} (sha256 of their table)"


def check_same_fit(run: Path, settings: Settings) -> None:
    """Checks that a run was fitted exactly as a command would fit it now.

    Args:
        run: folder of the run.
        settings: settings of the command, as its ``config.yaml`` would hold them.

    Raises:
        ValueError: settings, the pretrained model or the recordings differ; lists the differences.
    """
    found = fit_differences(run, settings)
    if found:
        listed = "".join(f"\n  {name}: was {was}, is {now}" for name, (was, now) in found.items())
        raise ValueError(
            f"{run} was not fitted as this command would fit it:{listed}\n"
            f"Give the new runs a name of their own (--experiment NAME), or delete {run.parent} to fit it again"
        )


def fit_differences(run: Path, settings: Settings) -> dict[str, tuple[Any, Any]]:
    """What a run was fitted with that a command would not fit it with now, by name: (was, is)."""
    return differences(_fitted(run, settings), _to_fit(settings))


def test_differences(run: Path, settings: Settings) -> dict[str, tuple[Any, Any]]:
    """What a test was made with that a command would not use now, by name: (was, is).

    Settings count without those of the machine, cohorts by the digest of their recordings, and models by the digest of
    their files, wherever they lie: a model that was fitted anew makes another test.
    """
    known, was = read_json(run, "provenance.json"), read_settings(run)
    found = differences(_of_the_test(with_defaults(was, settings, CohortDataModule)), _of_the_test(settings))
    for name, store in known["cohorts"].items():
        now = read_metadata(store_root() / name)["tables"]["recordings.csv"]
        if store.get("recordings") != now:
            found[RECORDINGS.format(name)] = (store.get("recordings"), now)
    used = {name: model["sha256"] for name, model in known.get("pretrained", {}).items()}
    if known.get("checkpoint_sha256"):
        used["checkpoint"] = known["checkpoint_sha256"]
    available = set(_model_digests(settings))
    return found | {f"model {name} (sha256)": (sha, None) for name, sha in used.items() if sha not in available}


def _of_the_test(settings: Settings) -> Settings:
    """The settings that a test's numbers depend on; where models lie does not count."""
    data = {name: value for name, value in settings["data"].items() if name not in OF_THE_MACHINE}
    flat = flatten({"seed": settings["seed_everything"], "model": settings["model"], "data": data})
    return {name: "a model" if _is_model(value) else value for name, value in flat.items()}


def _model_digests(settings: Settings) -> Iterator[str]:
    """The digest of every model file that the settings name."""
    for value in [settings.get("ckpt_path"), *flatten(settings["model"]).values()]:
        if _is_model(value):
            yield sha256_of(find_checkpoint(value))


def _is_model(value: Any) -> bool:
    """Whether a setting names a model: a file or folder that holds one."""
    if not isinstance(value, str) or "/" not in value or not Path(value).exists():
        return False
    try:
        return find_checkpoint(value).is_file()
    except FileNotFoundError:
        return False


def _fitted(run: Path, like: Settings) -> dict[str, Any]:
    """The settings and file hashes that a run recorded; options of a command that are newer at their defaults."""
    known, settings = read_json(run, "provenance.json"), with_defaults(read_settings(run), like, CohortDataModule)
    found = of_the_fit(settings)
    if "pretrained" in known.get("pretrained", {}):
        found[PRETRAINED] = known["pretrained"]["pretrained"]["sha256"]
    recordings = {name: known["cohorts"].get(name, {}).get("recordings") for name in _trained_on(settings)}
    return found | {RECORDINGS.format(name): digest for name, digest in recordings.items()}


def _to_fit(settings: Settings) -> dict[str, Any]:
    """The settings and file hashes that the command would fit with now."""
    found = of_the_fit(settings)
    pretrained = settings["model"].get("init_args", {}).get("pretrained")
    if pretrained:
        found[PRETRAINED] = sha256_of(find_checkpoint(pretrained))
    for name in _trained_on(settings):
        found[RECORDINGS.format(name)] = read_metadata(store_root() / name)["tables"]["recordings.csv"]
    return found


def _trained_on(settings: Settings) -> list[str]:
    """Names of the cohorts that a fit learns from; those that it tests do not change it."""
    cohorts = settings["data"]["cohorts"]
    return [cohorts] if isinstance(cohorts, str) else list(cohorts)
