"""Verbs of the command line that are about weights: to import, calibrate, measure, use and publish them."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from brainlm_lightning.checkpoint.description import Description
    from brainlm_lightning.checkpoint.published.importing import DataOfModel
    from brainlm_lightning.model.masked import MaskedModel

    Scaled = tuple[MaskedModel, Description]

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
    parser.add_argument("--recipe", help="with --cohort: a scaling of public code, in place of --scaling and --gain")
    parser.add_argument(
        "--encoding-order", choices=("shuffled", "natural"), help="default: shuffled, as in its training"
    )
    parser.add_argument("--shuffles", type=int, help="average the encodings of so many orders (default: 1)")

    def run(args: argparse.Namespace, rest: list[str]) -> None:
        from brainlm_lightning.checkpoint.hub import fetched
        from brainlm_lightning.checkpoint.published import importing

        given = {"input_gain": args.gain, "encoding_order": args.encoding_order, "shuffles": args.shuffles}
        options = {name: value for name, value in given.items() if value is not None}
        imported = importing.import_weights(fetched(args.source), _data_of_model(args), options)
        print(imported.report())
        print(importing.save_imported(*_with_recipe(imported.model, imported.about, args), args.output))

    return run


def _with_recipe(model: "MaskedModel", about: "Description", args: argparse.Namespace) -> "Scaled":
    """A model and its description, with the scaling of public code that the options name."""
    from brainlm_lightning.checkpoint.published.recipes import with_recipe
    from brainlm_lightning.data.store import Store

    if args.recipe is None:
        return model, about
    if args.cohort is None or any(getattr(args, name, None) is not None for name in ("scaling", "gain")):
        raise ValueError("--recipe takes its statistics from --cohort, and sets scaling and gain: leave those out")
    return with_recipe(model, about, args.recipe, Store(args.cohort))


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


def embed(parser: argparse.ArgumentParser) -> Verb:
    """`embed FILE… --model MODEL --output FILE`: recordings to an archive of embeddings."""
    parser.add_argument("recordings", nargs="*", help="files, as in the listing of a cohort; also FILE::NAME")
    parser.add_argument("--model", help="exported folder, .safetensors, .ckpt, or hf://OWNER/NAME")
    parser.add_argument("--output", type=Path, help="the .npz to write: an array (recordings, features) by embedding")
    parser.add_argument("--tr-s", type=float, help="seconds between frames, where files do not say it")
    parser.add_argument("--atlas", help="name of the checkpoint's atlas, where files do not name their columns")
    parser.add_argument("--label-image", type=Path, help="label image of the atlas, for volumes")
    parser.add_argument(
        "--parcels", type=Path, help="table (index, label, x, y, z) of another atlas: the model moves to it"
    )
    parser.add_argument(
        "--embeddings", nargs="+", help="for instance cls mean_std gram (default: those that cost little)"
    )
    parser.add_argument("--orientation", help="frames_parcels (default) or parcels_frames")
    parser.add_argument(
        "--parts", type=int, help="encode windows in so many parts: 4 where 75 %% were hidden (default: 1)"
    )
    parser.add_argument("--config", type=Path, help="YAML with these options: recordings, model, output, tr_s, …")

    def run(args: argparse.Namespace, rest: list[str]) -> None:
        from brainlm_lightning.embedding.archive import EmbeddingPlan, embed_files, read_plan

        given = {name: value for name, value in vars(args).items() if name not in ("verb", "run", "config")}
        given = {name: value for name, value in given.items() if value not in (None, [])}
        plan = read_plan(args.config, given) if args.config else EmbeddingPlan.of(given, "the command")
        print(embed_files(plan))

    return run


def calibrate(parser: argparse.ArgumentParser) -> Verb:
    """`calibrate MODEL --cohort STORE --output FILE`: the input gain at which an imported model reconstructs best."""
    parser.add_argument("model", help="an imported .safetensors")
    parser.add_argument(
        "--cohort", type=Path, required=True, help="store of the cohort; its training subjects are used"
    )
    parser.add_argument("--output", type=Path, required=True, help="the .safetensors to write, with the gain")
    parser.add_argument("--recordings", type=int, default=20, help="of training subjects (default: 20)")
    parser.add_argument("--ratio", type=float, default=0.2, help="share of tokens hidden (default: 0.2)")
    parser.add_argument("--offset", action="store_true", help="search an offset, too")
    parser.add_argument("--recipe", help="a scaling of public code, whose gain is then searched anew")

    def run(args: argparse.Namespace, rest: list[str]) -> None:
        from brainlm_lightning.checkpoint.published.importing import save_imported
        from brainlm_lightning.data.store import Store
        from brainlm_lightning.embedding.calibration import CalibrationPlan, calibrated
        from brainlm_lightning.embedding.one_line import EmbeddingModel, load

        plan = CalibrationPlan(args.recordings, args.ratio, args.offset)
        loaded = load(args.model)
        given = EmbeddingModel(*_with_recipe(loaded.model, loaded.about, args))
        model, found = calibrated(given, Store(args.cohort), plan)
        print(found.table())
        print(save_imported(model.model, model.about, args.output))

    return run


def reproduce_published(parser: argparse.ArgumentParser) -> Verb:
    """`reproduce-published MODEL --cohort STORE`: an imported model's numbers beside the paper's and others'."""
    parser.add_argument("model", help="an imported .safetensors, best after `calibrate`")
    parser.add_argument("--cohort", type=Path, required=True, help="store of the cohort, in the model's atlas")
    parser.add_argument("--targets", nargs="+", default=[], help="columns to predict, for instance age sex")
    parser.add_argument("--recordings", type=int, help="of test subjects, to reconstruct (default: all)")
    parser.add_argument("--output", type=Path, help="the .json to write, with all numbers")

    def run(args: argparse.Namespace, rest: list[str]) -> None:
        import rich

        from brainlm_lightning.atomic import refuse_existing
        from brainlm_lightning.data.store import Store
        from brainlm_lightning.embedding.one_line import load
        from brainlm_lightning.embedding.reproduction import ReproductionPlan, reproduced
        from brainlm_lightning.report.published import reproduction_table
        from brainlm_lightning.run_folder import write_json

        if args.output is not None:
            refuse_existing(args.output)
        model, store = load(args.model), Store(args.cohort)
        numbers = reproduced(model, store, ReproductionPlan(args.recordings, targets=tuple(args.targets)))
        rich.print(reproduction_table(model.model.name, store.name, numbers).rich())
        if args.output is not None:
            write_json(args.output, numbers)
            print(args.output)

    return run


def move(parser: argparse.ArgumentParser) -> Verb:
    """`move MODEL OUTPUT --cohort STORE`: a model to the atlas of a cohort, without training."""
    parser.add_argument("model", help="exported folder, run, .safetensors or .ckpt")
    parser.add_argument("output", type=Path, help="the .safetensors to write, which every task takes as `pretrained`")
    parser.add_argument("--cohort", type=Path, required=True, help="store of the cohort: gives parcels and statistics")
    parser.add_argument("--width-mm", type=float, help="of the kernel on the distance of centroids (default: 6)")
    parser.add_argument(
        "--images", nargs=2, help="map by overlap: label images of the model's atlas and of the cohort's"
    )

    def run(args: argparse.Namespace, rest: list[str]) -> None:
        from brainlm_lightning.checkpoint.published.importing import save_imported
        from brainlm_lightning.checkpoint.start_from import StartFrom, moved_checkpoint
        from brainlm_lightning.data.store import Store

        chosen: dict[str, Any] = {} if args.width_mm is None else {"width_mm": args.width_mm}
        if args.images:
            chosen |= {"atlas": "overlap", "images": tuple(args.images)}
        model, about = moved_checkpoint(StartFrom(args.model, **chosen), Store(args.cohort))
        print(save_imported(model, about, args.output))

    return run


def push(parser: argparse.ArgumentParser) -> Verb:
    """`push FOLDER OWNER/NAME`: an exported folder to the Hugging Face hub."""
    parser.add_argument("folder", type=Path, help="written by `export`, with the licence in its README.md filled in")
    parser.add_argument("repository", help="OWNER/NAME; made where it does not exist")
    parser.add_argument(
        "--public", action="store_true", help="everybody sees a new repository (default: its owner alone)"
    )

    def run(args: argparse.Namespace, rest: list[str]) -> None:
        from brainlm_lightning.checkpoint.shared_folder import push as published

        print(published(args.folder, args.repository, private=not args.public))

    return run
