"""Can a clinical variable be predicted from brain dynamics, and does pretraining help?

Paper, sections 3.4 and 4.2, table 2. `fit` trains one network on one fold (the experiment's sweep runs all folds and
methods); `test` predicts every fold's test subjects with the networks found, fits the baselines on the same folds and
compares.

Shapes: B batch, P parcels, N patches per parcel, R recordings, D width, O outputs, Q classes.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.nn import functional

from brainlm_lightning.checkpoint.description import KEY as DESCRIPTION
from brainlm_lightning.checkpoint.description import describe_tuned
from brainlm_lightning.data.division import TestSet
from brainlm_lightning.data.windows import Batch
from brainlm_lightning.model.low_rank import LowRank
from brainlm_lightning.model.mae import MaskedAutoencoder
from brainlm_lightning.tasks.clinical.compare import ClinicalComparison, FoldNetworks
from brainlm_lightning.tasks.clinical.embedding import hidden_parts
from brainlm_lightning.tasks.clinical.features import BaselinePlan, RecordingFeatures, confounds_of
from brainlm_lightning.tasks.clinical.folds import FoldPlan
from brainlm_lightning.tasks.clinical.labels import Target, class_weights
from brainlm_lightning.tasks.clinical.methods import ClinicalMethod, default_baselines, wanted_features
from brainlm_lightning.tasks.clinical.net import HeadPlan, MethodName, PhenotypeModel, tuned_part
from brainlm_lightning.tasks.clinical.question import KEY, Question
from brainlm_lightning.tasks.compare import with_baselines
from brainlm_lightning.tasks.optimisation import OptimisationPlan, planned
from brainlm_lightning.tasks.task import Task


class ClinicalTask(Task):
    """Trains an encoder with a head on one fold, and tests all folds beside the baselines.

    Args:
        pretrained: a checkpoint, a run folder or ``runs/<experiment>`` of a pretraining.
        target: the phenotype.
        folds: who trains and tests.
        method: ``frozen`` or ``tuned`` encoder; or ``tuned_qkv``, of which the attention's projections alone learn; or
            ``tuned_lora``, of which low-rank adapters of the attention learn, and no weight of its own;
            ``untrained_…``: the same before its first pretraining step.
        fold: the fold to train on, counted through all repeats.
        head: pooling, dropout and layers.
        low_rank: rank and scale of the adapters of ``tuned_lora``.
        optimisation: optimiser and learning rate of the head.
        layer_decay: of the learning rate, from each layer to the one below it.
        parts: a window's tokens are encoded in so many parts, as many tokens at once as the pretraining saw: 4 where it
            hid 75 %. One part is drawn for each training step; tests take all.
        baselines: what the networks are compared with beside the default baselines, by name; null leaves a default out.
        default_baselines: False = the given baselines alone.
        baseline_plan: what baselines are given.
    """

    fitted = False  # `test` gathers the runs of all folds by itself
    test_options = (*Task.test_options, "baseline_plan")
    label_R: Tensor
    weight_Q: Tensor

    def __init__(
        self,
        pretrained: str,
        target: Target,
        folds: FoldPlan = FoldPlan(),
        method: MethodName = "tuned",
        fold: int = 0,
        head: HeadPlan = HeadPlan(),
        low_rank: LowRank = LowRank(),
        optimisation: OptimisationPlan = OptimisationPlan(learning_rate=1e-3, warmup_fraction=0.1),
        layer_decay: float = 0.75,
        parts: int = 1,
        baselines: dict[str, ClinicalMethod | None] | None = None,
        default_baselines: bool = True,
        baseline_plan: BaselinePlan = BaselinePlan(),
    ) -> None:
        super().__init__()
        if not 0 < layer_decay <= 1 or parts < 1:
            raise ValueError(f"layer_decay is {layer_decay} and parts {parts}; expected above 0 to 1, and 1 or more")
        self.pretrained, self.target, self.plan = pretrained, target, folds
        self.baselines, self.use_defaults, self.baseline_plan = baselines, default_baselines, baseline_plan
        self.method, self.fold, self.head, self.low_rank, self.parts = method, fold, head, low_rank, parts
        self.optimisation, self.layer_decay = optimisation, layer_decay
        self.predictor: PhenotypeModel | None = None
        self.feature_RD: Tensor | None = None  # of a frozen encoder, by row of the table

    # -- before anything is trained ---------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Reads labels and the pretrained model, and assigns subjects to folds; refuses what cannot be predicted."""
        logger, folder = self.trainer.logger, self.trainer.default_root_dir
        runs = Path((logger.save_dir if logger else None) or folder)
        pretrained = self.load_pretrained(self.pretrained)
        if stage != "test" and not isinstance(pretrained.model, MaskedAutoencoder):
            raise ValueError(
                f"{pretrained.path} holds a {type(pretrained.model).__name__}, and networks are trained on the encoder "
                "of a MaskedAutoencoder; run test, which needs no fit, for what the embeddings predict"
            )
        self.datamodule.adopt_statistics(pretrained.statistics)
        if self.plan.one_window:
            self.datamodule.places = replace(self.datamodule.places, first_alone=True)
        self.question = Question.from_data(self.datamodule, pretrained, self.target, self.plan, runs)
        folds = self.question.folds
        if not 0 <= self.fold < len(folds):
            raise ValueError(f"fold is {self.fold}; there are {len(folds)}, 0 to {len(folds) - 1}")
        tests = [TestSet(f"fold{number}", fold.test) for number, fold in enumerate(folds)]
        here = folds[self.fold]
        self.datamodule.use_rows(here.train, here.val, tests, stage)
        if stage != "test":
            self.scale = self.question.scale(here)
            label_R = self.scale.forward(self.question.labels.values_R)
            self.register_buffer("label_R", torch.from_numpy(label_R).float(), persistent=False)
            self.register_buffer("weight_Q", self._class_weights(here.train), persistent=False)

    def _class_weights(self, rows: np.ndarray) -> Tensor:
        labels = self.question.labels
        if not labels.classes:
            return torch.ones(1)
        return torch.from_numpy(class_weights(labels.values_R[rows], len(labels.classes))).float()

    @property
    def online(self) -> bool:
        """Whether the encoder runs in every step: it does not where it is frozen and pooling needs no training."""
        return tuned_part(self.method) != "none" or self.head.pooling == "attention"

    def configure_model(self) -> None:
        """Builds encoder and head for this fold."""
        if self.predictor is not None or self.trainer.testing:
            return
        net = self.question.encoder(self.method.startswith("untrained"), self.question.folds[self.fold])
        assert isinstance(net, MaskedAutoencoder)  # see setup
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.datamodule.seed + self.fold)
            sizes = self.question.num_outputs, self.head, tuned_part(self.method), self.low_rank
            self.predictor = PhenotypeModel(net, *sizes).to(self.device)

    def on_fit_start(self) -> None:
        """Embeds the recordings once: the head starts with standardised features, and a frozen one sees no others.

        The head is standardised over what it is fed: single parts of windows where the encoder runs, else the means
        over all parts of all windows of a recording.
        """
        assert self.predictor is not None
        pooling = self.head.pooling
        if pooling == "attention":
            return
        here = self.question.folds[self.fold]
        untrained = self.method.startswith("untrained")
        features = self.question.features(untrained, here, self.parts, self.device)
        feature_RD, within_RD = (torch.from_numpy(features[name]) for name in (pooling, f"{pooling}_variance"))
        train = torch.from_numpy(here.train)
        mean_D, std_D = feature_RD[train].mean(0), feature_RD[train].std(0)
        if self.online:
            std_D = (within_RD[train].mean(0) + feature_RD[train].var(0, correction=0)).sqrt()
        self.predictor.head.standardise(mean_D.to(self.device), std_D.to(self.device))
        self.feature_RD = None if self.online else feature_RD.to(self.device)

    # -- training ---------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch, hidden_BPN: Tensor) -> Tensor:
        """Outputs for a scaled batch, (B, O)."""
        assert self.predictor is not None
        if self.feature_RD is not None:
            output_BO: Tensor = self.predictor.head(self.feature_RD[batch["recording_index_B"]])
        else:
            output_BO = self.predictor(batch["signal_BPT"], hidden_BPN, batch["observed_BP"])
        return output_BO

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Squared error, or cross-entropy with class weights, on one part of each window."""
        loss_B, weight_B = self._losses(batch)
        loss = (loss_B * weight_B).mean()  # weights have mean 1 over the training recordings
        self.log_loss(loss, batch_idx)
        return loss

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss and weight of each window."""
        assert self.predictor is not None
        hidden_BPN = next(hidden_parts(batch, self.predictor.net.num_patches, self.parts))
        output_BO = self(batch, hidden_BPN).float()
        label_B = self.label_R[batch["recording_index_B"]]
        if not self.question.labels.classes:
            return (output_BO[:, 0] - label_B).square(), torch.ones_like(label_B)
        return functional.cross_entropy(output_BO, label_B.long(), reduction="none"), self.weight_Q[label_B.long()]

    def configure_optimizers(self) -> Any:
        """AdamW or Adam with layer-wise learning rates, warm-up and cosine."""
        assert self.predictor is not None
        total = int(self.trainer.estimated_stepping_batches)
        return planned(self.predictor, self.optimisation, total, self.predictor.layers(), self.layer_decay)

    # -- validation -------------------------------------------------------------------------------------------------

    def on_validation_start(self) -> None:
        """Resets the sums."""
        self.val_sums = torch.zeros(2, dtype=torch.float64, device=self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds a batch, of each window the same part in every epoch."""
        loss_B, weight_B = self._losses(batch)
        self.val_sums += torch.stack([(loss_B * weight_B).double().sum(), weight_B.double().sum()])

    def on_validation_epoch_end(self) -> None:
        """The loss over all validation windows of all ranks."""
        total, weight = self.trainer.strategy.reduce(self.val_sums, reduce_op="sum")
        self.log("val/loss", total / weight, prog_bar=True, rank_zero_only=False)

    # -- test -------------------------------------------------------------------------------------------------------

    def on_test_start(self) -> None:
        """Finds the networks of all folds."""
        networks = FoldNetworks(self.experiment_folder, self.question, self.trainer.strategy)
        confounds = confounds_of(self.question, self.baseline_plan)
        defaults = default_baselines(confounds=bool(confounds))
        baselines = with_baselines({}, defaults, self.baselines, self.use_defaults)
        features = RecordingFeatures(self.question, self.baseline_plan, self.parts, wanted_features(baselines.values()))
        self.comparison = ClinicalComparison(baselines, networks, self.question, features)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """A batch of one fold's test subjects, through that fold's networks."""
        self.comparison.update(batch, dataloader_idx)

    def on_test_epoch_end(self) -> None:
        """Fits the baselines on every fold, scores and compares."""
        self.results, self.arrays, predictions = self.comparison.compute(show=self.trainer.is_global_zero)
        self.tables["predictions"] = predictions

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Makes the checkpoint describe itself: the encoder's data, and what is predicted how."""
        about = self.question.pretrained.about
        if not self.method.endswith("frozen"):
            what = {"target": self.target.column, "method": self.method, "fold": self.fold}
            about = describe_tuned(about, self.datamodule, **what)
        checkpoint[DESCRIPTION] = dict(about)
        checkpoint[KEY] = {
            "method": self.method,
            "fold": self.fold,
            "target": asdict(self.target),
            "classes": list(self.question.labels.classes),
            "scale": asdict(self.scale),
            "head": asdict(self.head),
            "low_rank": asdict(self.low_rank),
            "parts": self.parts,
            "fold_digest": self.question.digest(self.question.folds[self.fold]),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses to go on with another fold's training."""
        here = self.question.digest(self.question.folds[self.fold])
        if checkpoint[KEY]["fold_digest"] != here:
            raise ValueError(
                "the checkpoint was trained on other subjects or labels than this fold's: the cohort, the target, the "
                "folds or the pretrained model changed; give the experiment another name"
            )
        rank_zero_info(f"going on with {self.method}, fold {self.fold}")
