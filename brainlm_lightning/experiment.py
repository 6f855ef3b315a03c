"""Experiments from YAML: LightningCLI with run folders, atomic checkpoints and overridable interpolations."""

import logging
import sys
import warnings
from argparse import ArgumentError
from pathlib import Path
from pydoc import locate
from typing import Any

import jsonargparse
import lightning.pytorch as pl
import rich
import torch
import yaml
from lightning.pytorch.callbacks import LearningRateMonitor, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info
from omegaconf.errors import OmegaConfBaseException

from brainlm_lightning.callbacks import sharding
from brainlm_lightning.callbacks.checkpoints import AtomicCheckpointIO, checkpoint_callbacks
from brainlm_lightning.callbacks.fit_loop import ResumableFitLoop
from brainlm_lightning.callbacks.graceful_stop import GracefulStop
from brainlm_lightning.callbacks.progress_lines import ProgressLines
from brainlm_lightning.callbacks.result_files import ResultFiles
from brainlm_lightning.callbacks.run_folder import RunFolder, folder_of
from brainlm_lightning.callbacks.run_logger import RunLogger
from brainlm_lightning.callbacks.step_seed import StepSeed
from brainlm_lightning.callbacks.tensorboard_figures import TensorBoardFigures
from brainlm_lightning.callbacks.throughput import Throughput
from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.experiment_files import check_settings, refuse_missing
from brainlm_lightning.options import explain_unknown, files_first, given_options
from brainlm_lightning.report.tables import tables
from brainlm_lightning.run_folder import find_checkpoint, read_metrics, run_of
from brainlm_lightning.settings import Settings, differences, of_the_model, read_settings
from brainlm_lightning.shell import EVERYTHING

# Without this, other settings keep the old value of an interpolated setting that the command line overrides.
jsonargparse.set_parsing_settings(omegaconf_absolute_to_relative_paths=True)


CHATTER = ("litlogger", "litmodels", "💡", "TPU available", "already configured", "`weights_only` was not set")
WARNINGS = (  # of no use to a user
    r"`isinstance\(treespec, LeafSpec\)`",  # Lightning 2.6 on torch 2.13, about itself
    r"(?s).*(JsonargparseDeprecationWarning|add_instantiator|instantiate_classes|skip_none)",  # the same
    ".*callbacks used to create the checkpoint need to be provided",  # `test` writes no checkpoints
    ".*in eval mode at the start of training",  # a frozen encoder
    ".*returned a view tensor",  # a validation of sharded weights: nothing flows back through what it returns
    ".*does not have many workers",  # one process reads thousands of windows a second
)


class ExperimentCLI(LightningCLI):
    """``fit``, ``validate`` and ``test`` of one experiment file.

    ``validate`` and ``test`` take the best checkpoint of the experiment's newest fit unless ``--ckpt_path`` names
    another. What the model is (seed, model and data) comes from the run of that checkpoint and outranks the files; what
    is asked of it (test cohorts and ratios, baselines, other methods to compare) comes from the files. Options on the
    command line outrank both, and an option that contradicts the checkpoint is an error.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the settings of an experiment beside model, data and Trainer."""
        parser.add_argument(
            "--experiment", type=str, default="experiment", help="Name of the experiment's folder in `runs`."
        )
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)  # one seed for everything
        parser.add_argument("--runs", type=str, default="runs", help="Folder of all experiments.")
        parser.add_argument(
            "--checkpoint_every",
            type=int,
            default=1000,
            help="Optimiser steps between two `last.ckpt` within an epoch.",
        )
        parser.add_argument(
            "--sweep", type=dict | None, default=None, help="Several runs of one file; see the module `sweep`."
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses the command; for `validate` and `test` finds the checkpoint, and takes over its run's settings.

        Raises:
            FileNotFoundError: there is no checkpoint to test.
            ValueError: an option is unknown, has no value of its type, or refers to what is not there.
        """
        self._parse(parser)
        verb = self.config.subcommand
        if verb in ("validate", "test"):
            checkpoint = self._tested_checkpoint(self.config[verb])
            if checkpoint is not None:
                self._take_over(parser, checkpoint)
                self.config[verb].ckpt_path = str(checkpoint)
        check_settings(self.config[verb])

    def _parse(self, parser: LightningArgumentParser, further: Settings | None = None) -> None:
        """Parses the command: files outrank defaults, `further` settings outrank files, and options outrank both."""
        verb, *given = sys.argv[1:]
        files, options = files_first(given)
        refuse_missing(files)
        between = [f"--config={yaml.safe_dump(further)}"] if further else []
        try:
            self.config = parser.parse_args([verb, *files, *between, *options])
        except OmegaConfBaseException as error:
            raise ValueError(str(error)) from error
        except ArgumentError as error:
            raise ValueError(self._explain(str(error))) from error

    def _explain(self, error: str) -> str:
        """The parser's message, or a shorter one where an option is unknown."""
        verb, *options = sys.argv[1:]
        parser_options = list(self._subcommand_parsers[verb].get_defaults(skip_validation=True).keys())
        unknown = explain_unknown(given_options(options), parser_options, error)
        return unknown or f"{error}\nThe options of this command: python -m brainlm_lightning.cli {verb} {EVERYTHING}"

    def _tested_checkpoint(self, config: Any) -> Path | None:
        """The checkpoint that is named, or the best one of the experiment; None where the task needs none."""
        if config.ckpt_path:
            return Path(config.ckpt_path)
        if config.sweep or not _task_class(config).fitted:
            return None
        checkpoint = find_checkpoint(Path(config.runs) / config.experiment)
        rank_zero_info(f"checkpoint: {checkpoint}")
        return checkpoint

    def _take_over(self, parser: LightningArgumentParser, checkpoint: Path) -> None:
        """Parses again, with the settings of the checkpoint's run between the files and the command line."""
        run = run_of(checkpoint)
        if run is None:
            return
        asked, fitted = self.settings(), read_settings(run)
        if fitted["model"]["class_path"] != asked["model"]["class_path"]:
            rank_zero_info(f"{run} was fitted by {fitted['model']['class_path']}: none of its settings is taken over")
            return
        self._parse(parser, of_the_model(fitted))
        for name, (ours, taken) in differences(asked, self.settings()).items():
            rank_zero_info(f"{name}: {taken} from {run}, not {ours}")

    def settings(self) -> Settings:
        """The whole configuration as it would be written to ``config.yaml``."""
        verb = self.config.subcommand
        return dict(yaml.safe_load(self._subcommand_parsers[verb].dump(self.config[verb], skip_none=False)))

    def _parse_ckpt_path(self) -> None:
        """Does nothing: Lightning would let hyper-parameters in the checkpoint override the command line."""

    def before_instantiate_classes(self) -> None:
        """Checks that a checkpoint that is named exists.

        Raises:
            FileNotFoundError: it does not.
        """
        config = self.config[self.subcommand]
        if self.subcommand == "test":
            config.verbose = False  # hides Lightning's list of all metrics; `after_test` shows tables
        if config.ckpt_path and not Path(config.ckpt_path).is_file():
            raise FileNotFoundError(f"no checkpoint at {config.ckpt_path}; name a .ckpt file of a run folder")

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Builds the Trainer, with this framework's logger, callbacks and checkpoints added to those of the YAML."""
        config = self.config_init[self.subcommand]
        given = config.trainer.logger
        if config.trainer.strategy == sharding.NAME and self.subcommand != "fit":
            rank_zero_info(f"{self.subcommand} has the whole model on every device: strategy auto, not {sharding.NAME}")
            kwargs["strategy"] = "auto"
        if given in (None, True):
            kwargs["logger"] = RunLogger(config.runs, name=config.experiment, default_hp_metric=False)
        callbacks = list(config.trainer.callbacks or [])
        callbacks += [StepSeed(), GracefulStop(), Throughput()]
        if config.trainer.enable_progress_bar is not False:
            callbacks.append(RichProgressBar() if sys.stdout.isatty() else ProgressLines())
        if self.subcommand == "fit":
            callbacks += checkpoint_callbacks(config.checkpoint_every, *self.model.monitor)
            callbacks += [LearningRateMonitor("step"), TensorBoardFigures()] if given is not False else []
        if self.subcommand == "test":
            callbacks += [ResultFiles()] if given is not False else []
        kwargs["callbacks"] = callbacks
        kwargs["plugins"] = [*(config.trainer.plugins or []), AtomicCheckpointIO()]
        # The DataModule itself distributes batches, so that any number of ranks sees the same global batches.
        kwargs["use_distributed_sampler"] = False
        trainer = super().instantiate_trainer(**kwargs)
        trainer.fit_loop = ResumableFitLoop(trainer)
        return trainer

    def before_test(self) -> None:
        """Tells the task the folder of the experiment, which holds the runs of a sweep."""
        config = self.config[self.subcommand]
        self.model.experiment_folder = Path(config.runs) / config.experiment

    def after_test(self) -> None:
        """Prints the results and the run folder."""
        if self.trainer.is_global_zero:
            rich.print(*tables(read_metrics(folder_of(self.trainer))))
            self._say_where()

    def after_validate(self) -> None:
        """Prints the run folder."""
        if self.trainer.is_global_zero:
            self._say_where()

    def after_fit(self) -> None:
        """Prints the run folder."""
        if self.trainer.is_global_zero:
            self._say_where()

    def _say_where(self) -> None:
        rank_zero_info(f"run folder: {folder_of(self.trainer)}")
        rank_zero_info(f"dashboard:  tensorboard --logdir {self.config[self.subcommand].runs}")


def _task_class(config: Any) -> Any:
    """The class of the task, which says whether it is fitted at all."""
    return locate(config.model.class_path)


def quieten() -> None:
    """Filters out Lightning's advertisements, and tips that do not apply."""

    def tells(record: logging.LogRecord) -> bool:
        return not any(word in record.getMessage() for word in CHATTER)

    for name in ("utilities.rank_zero", "trainer.connectors.checkpoint_connector"):
        logging.getLogger(f"lightning.pytorch.{name}").addFilter(tells)
    for message in WARNINGS:
        warnings.filterwarnings("ignore", message)


class ParsedCommand(ExperimentCLI):
    """A command that is parsed only: nothing is built or run."""

    def before_instantiate_classes(self) -> None:
        """Nothing."""

    def instantiate_classes(self) -> None:
        """Nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing."""


def run(args: list[str]) -> None:
    """Runs one command of an experiment.

    Args:
        args: ``fit --config experiments/pretrain.yaml ...``.
    """
    _start(ExperimentCLI, args)


def settings_of(args: list[str]) -> Settings:
    """The settings that a command would run with, as it would write them to ``config.yaml``."""
    return _start(ParsedCommand, args).settings()


def _start(kind: type[ExperimentCLI], args: list[str]) -> ExperimentCLI:
    quieten()
    sharding.register()
    torch.set_float32_matmul_precision("high")
    before = sys.argv
    sys.argv = [before[0], *args]  # what Lightning starts the other ranks with
    try:
        return kind(
            model_class=pl.LightningModule,
            datamodule_class=CohortDataModule,
            subclass_mode_model=True,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            save_config_callback=RunFolder,
            parser_kwargs={"parser_mode": "omegaconf+", "exit_on_error": False},
        )
    finally:
        sys.argv = before
