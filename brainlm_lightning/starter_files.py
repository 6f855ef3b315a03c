"""`init`: the experiments and manifests that come with the package, as files to run and to edit.

A wheel carries them inside the package; a checkout has them beside it.
"""

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path

from brainlm_lightning.atomic import refuse_existing

FOLDERS = ("experiments", "data_manifests")


def source_of(name: str) -> Path:
    """Where the package has the folder.

    Raises:
        FileNotFoundError: the installation lacks it.
    """
    package = Path(__file__).parent
    for folder in (package / name, package.parent / name):
        if (folder / "README.md").is_file() or any(folder.glob("*.yaml")):
            return folder
    raise FileNotFoundError(f"no {name} in {package} nor beside it; install brainlm-lightning again")


def copy_starter_files(target: Path) -> list[Path]:
    """Copies the folders into `target`, which is made if it is missing.

    Returns:
        The new folders.

    Raises:
        FileExistsError: one of them is there already; nothing is copied.
    """
    made = [target / name for name in FOLDERS]
    for folder in made:
        refuse_existing(folder)
    for folder in made:
        shutil.copytree(source_of(folder.name), folder, ignore=shutil.ignore_patterns("__pycache__"))
    return made


def init(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace, list[str]], None]:
    """`init [FOLDER]`: writes `experiments/` and `data_manifests/` there."""
    parser.add_argument("folder", type=Path, nargs="?", default=Path(), help="where to (default: here)")

    def run(args: argparse.Namespace, rest: list[str]) -> None:
        for folder in copy_starter_files(args.folder):
            print(f"{folder}: {len(list(folder.glob('*.yaml')))} files")

    return run
