"""What is done with an exported folder elsewhere: rebuilding its model in the hub's conventions, and publishing it.

The conventions are those of `huggingface_hub.PyTorchModelHubMixin`: `config.json` and `model.safetensors` in one folder
or repository, and a `from_pretrained` that takes either.
"""

from pathlib import Path

from brainlm_lightning.checkpoint.description import Description
from brainlm_lightning.checkpoint.hub import REPOSITORY, download, upload
from brainlm_lightning.checkpoint.pretrained import load_model
from brainlm_lightning.checkpoint.sharing import CARD, CONFIG, short
from brainlm_lightning.model.masked import MaskedModel
from brainlm_lightning.run_folder import EXPORTED, read_json

NEEDED = (CONFIG, EXPORTED)
UNFILLED = "FILL IN"  # in a model card, where its author has to say something


def from_pretrained(
    pretrained_model_name_or_path: Path | str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: Path | str | None = None,
    local_files_only: bool = False,
) -> MaskedModel:
    """Rebuilds the model of an exported folder: tensors in, tensors out; see `brainlm_lightning.load` for recordings.

    Args:
        pretrained_model_name_or_path: an exported folder, which needs neither a network nor `huggingface_hub`; or
            OWNER/NAME on the hub.
        revision: branch, tag or commit of the hub.
        token: for a private repository; None = that of ``hf auth login``.
        cache_dir: where downloads are kept.
        local_files_only: takes what was downloaded before, without a network.

    Returns:
        The model in evaluation mode.

    Raises:
        FileNotFoundError: there is no such folder, or it lacks a file.
        ImportError: the name is one of the hub, and `huggingface_hub` is not installed.
        ValueError: config.json and weights are not of one export; or a tensor is missing, not expected or misshapen.
    """
    name = str(pretrained_model_name_or_path)
    if Path(name).is_dir():
        return checked_model(Path(name))[0]
    if not REPOSITORY.fullmatch(name):
        raise FileNotFoundError(f"no folder {name}; name an exported folder, or OWNER/NAME on the hub")
    folder = download(name, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
    return checked_model(folder)[0]


def checked_model(folder: Path) -> tuple[MaskedModel, Description]:
    """The model of an exported folder and its description, if its files belong together.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: config.json says something else than the header of the weights.
    """
    absent = [name for name in NEEDED if not (folder / name).is_file()]
    if absent:
        raise FileNotFoundError(f"{folder} has no {' and no '.join(absent)}; expected a folder that `export` wrote")
    model, about = load_model(folder / EXPORTED, MaskedModel)
    found, expected = read_json(folder, CONFIG), short(about)
    differing = [name for name in expected.keys() | found.keys() if found.get(name) != expected.get(name)]
    if differing:
        raise ValueError(
            f"{folder}: config.json and the header of {EXPORTED} differ in {', '.join(sorted(differing))}: the files "
            "are of two exports, or one was edited; export the model again"
        )
    return model, about


def push(folder: Path, repository: str, private: bool) -> str:
    """Publishes an exported folder on the Hugging Face hub, as it is.

    Args:
        folder: with a model card whose licence was filled in.
        repository: OWNER/NAME; made where it does not exist.
        private: whether a new repository can be seen by its owner alone.

    Returns:
        The address of the commit.

    Raises:
        FileNotFoundError: a file is missing.
        ImportError: `huggingface_hub` is not installed.
        ValueError: the files do not belong together, or the card's licence is not filled in.
    """
    checked_model(folder)
    card = folder / CARD
    if not card.is_file() or UNFILLED in card.read_text(encoding="utf-8"):
        raise ValueError(
            f"{card} does not name a licence yet: write one in place of {UNFILLED}, as the terms of the data that the "
            "model was trained on allow, then push"
        )
    return upload(folder, repository, private)
