"""One number of the embedding while a model is pretrained: does one half of what was recorded find the other?"""

import lightning.pytorch as pl
import numpy as np

from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.embedding.definitions import Gram
from brainlm_lightning.embedding.recordings import embed_groups
from brainlm_lightning.model.masked import MaskedModel
from brainlm_lightning.tasks.identity.halves import Halves
from brainlm_lightning.tasks.identity.score import reidentified

NAME = "val/gram_reidentification"  # 0 to 1; chance is 1 over `val/gram_reidentification_subjects`


class EmbeddingMonitor(pl.Callback):
    """Logs after every validation how often the `gram` embedding of a validation subject's half finds the other half.

    R² says how well the model reconstructs, which it can without knowing anybody; a value near chance says so while it
    trains. Halves and score are those of `IdentityTask`, but about the mean of the validation subjects themselves. The
    windows are encoded in evaluation mode; nothing is drawn, so that training is the same with and without it.

    Args:
        parts: a window's tokens are encoded in so many parts: 4 where the pretraining hides 75 %.
        most_subjects: whose windows are encoded; of more, the first by name.
    """

    def __init__(self, parts: int = 4, most_subjects: int = 100) -> None:
        self.parts, self.most_subjects = parts, most_subjects

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Names the subjects who have two halves.

        Raises:
            ValueError: there are fewer than two, or the task's model has no embedding of parcels.
        """
        data: CohortDataModule = trainer.datamodule  # type: ignore[attr-defined]
        subject_R = data.recordings.table["subject_id"].iloc[data.val_rows].to_numpy(str)
        whole = Halves.of(data, data.val_rows)
        names = whole.subject_U[whole.has_second_U][: self.most_subjects]
        if len(names) < 2 or not getattr(pl_module.net, "has_parcels", False):
            raise ValueError(
                f"{len(names)} validation subjects have two windows and the model is a {type(pl_module.net).__name__}; "
                "re-identification takes two such subjects and a model with tokens of single parcels: take "
                f"{type(self).__name__} out of trainer.callbacks"
            )
        self._rows = data.val_rows[np.isin(subject_R, names)]
        self._halves = Halves.of(data, self._rows)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Embeds the halves and logs."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        net = pl_module.net
        assert isinstance(net, MaskedModel)
        data: CohortDataModule = trainer.datamodule  # type: ignore[attr-defined]
        found = embed_groups(net, data, self._rows, self._halves.group, {"gram": Gram()}, self.parts)["gram"]
        first_UF, second_UF = np.split(found.astype(np.float64) - found.mean(0), 2)
        pl_module.log(NAME, float(reidentified(first_UF, second_UF).mean()))
        pl_module.log(f"{NAME}_subjects", float(len(first_UF)))
