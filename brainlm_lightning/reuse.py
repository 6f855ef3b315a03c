"""Whether an existing run can be reused: it was fitted with the same settings, pretrained model and recordings."""

from pathlib import Path
from typing import Any

from brainlm_lightning.data.store import read_metadata, store_root
from brainlm_lightning.provenance import sha256_of
from brainlm_lightning.run_folder import find_checkpoint, read_json
from brainlm_lightning.settings import Settings, differences, of_the_fit, read_settings

PRETRAINED = "checkpoint of model.init_args.pretrained (sha256)"
RECORDINGS = "recordings of {} (sha256 of their table)"


def check_same_fit(run: Path, settings: Settings) -> None:
    """Checks that a run was fitted exactly as a command would fit it now.

    Args:
        run: folder of the run.
        settings: settings of the command, as its ``config.yaml`` would hold them.

    Raises:
        ValueError: settings, the pretrained model or the recordings differ; lists the differences.
    """
    found = differences(_fitted(run), _to_fit(settings))
    if found:
        listed = "".join(f"\n  {name}: was {was}, is {now}" for name, (was, now) in found.items())
        raise ValueError(
            f"{run} was not fitted as this command would fit it:{listed}\n"
            f"Give the new runs a name of their own (--experiment NAME), or delete {run.parent} to fit it again"
        )


def _fitted(run: Path) -> dict[str, Any]:
    """The settings and file hashes that a run recorded."""
    known = read_json(run, "provenance.json")
    found = of_the_fit(read_settings(run))
    if "pretrained" in known.get("pretrained", {}):
        found[PRETRAINED] = known["pretrained"]["pretrained"]["sha256"]
    return found | {RECORDINGS.format(name): store.get("recordings") for name, store in known["cohorts"].items()}


def _to_fit(settings: Settings) -> dict[str, Any]:
    """The settings and file hashes that the command would fit with now."""
    found, cohorts = of_the_fit(settings), settings["data"]["cohorts"]
    pretrained = settings["model"].get("init_args", {}).get("pretrained")
    if pretrained:
        found[PRETRAINED] = sha256_of(find_checkpoint(pretrained))
    for name in [cohorts] if isinstance(cohorts, str) else cohorts:
        found[RECORDINGS.format(name)] = read_metadata(store_root() / name)["tables"]["recordings.csv"]
    return found
