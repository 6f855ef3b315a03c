"""Verbs of the command line that are about weights: `import-weights`."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from brainlm_lightning.checkpoint.published.importing import DataOfModel

Verb = Callable[[argparse.Namespace, list[str]], None]


def import_weights(parser: argparse.ArgumentParser) -> Verb:
    """`import-weights SOURCE OUTPUT`: published weights to a checkpoint of this package."""
    parser.add_argument("source", help="folder, .safetensors or .bin of a published model, or hf://OWNER/NAME/FOLDER")
    parser.add_argument("output", type=Path, help="the file to write, for instance old_13M.safetensors")
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--cohort", type=Path, help="store of a cohort in A424: gives parcels, tr_s and statistics")
    data.add_argument("--parcels", type=Path, help="table of A424 with columns index, label, x, y, z (mm)")
    parser.add_argument("--scaling", help="robust (with --cohort), recording_zscore (with --parcels) or another recipe")
    parser.add_argument(
        "--tr-s", type=float, help="with --parcels: seconds between frames (default: UK Biobank's 0.735)"
    )
    parser.add_argument("--gain", type=float, help="factor on the scaled signal (default: 1; see `calibrate`)")
    parser.add_argument("--token-order", choices=("shuffled", "natural"), help="default: shuffled, as in its training")
    parser.add_argument("--shuffles", type=int, help="average the encodings of so many orders (default: 1)")

    def run(args: argparse.Namespace, rest: list[str]) -> None:
        from brainlm_lightning.checkpoint.published import importing

        given = {"input_gain": args.gain, "token_order": args.token_order, "shuffles": args.shuffles}
        options = {name: value for name, value in given.items() if value is not None}
        imported = importing.import_weights(Path(args.source), _data_of_model(args), options)
        print(imported.report())
        print(importing.save_imported(imported.model, imported.about, args.output))

    return run


def _data_of_model(args: argparse.Namespace) -> "DataOfModel":
    """What the options say of the model's data."""
    from brainlm_lightning.checkpoint.published.importing import DataOfModel
    from brainlm_lightning.data.atlas import Atlas
    from brainlm_lightning.data.store import Store

    chosen: dict[str, Any] = {} if args.scaling is None else {"scaling": args.scaling}
    if args.cohort is not None:
        if args.tr_s is not None:
            raise ValueError("--tr-s goes with --parcels; a cohort has a tr_s of its own")
        store = Store(args.cohort)
        return DataOfModel(store.atlas, store.tr_s, **{"scaling": "robust", "statistics": store.statistics, **chosen})
    atlas = Atlas.from_table("A424", args.parcels, index="index", label="label", xyz_mm=("x", "y", "z"))
    return DataOfModel(atlas, **chosen, **({} if args.tr_s is None else {"tr_s": args.tr_s}))
