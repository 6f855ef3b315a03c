"""Models of other runs, as opponents on the same windows and masks.

Shapes: B windows of a batch, P parcels, T frames.
"""

from torch import Tensor

from brainlm_lightning.checkpoint.pretrained import Pretrained, load_pretrained, refuse_seen
from brainlm_lightning.tasks.compare import LearningData, Numbers
from brainlm_lightning.tasks.reconstruction.methods import MaskedWindows, ReconstructionMethod


class SavedModel(ReconstructionMethod):
    """A masked model of another run, on the same atlas and window, without any further training.

    Args:
        checkpoint: a checkpoint, an exported folder, a run folder or ``runs/<experiment>``.
    """

    mixed_precision = True

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint
        self.pretrained: Pretrained | None = None

    def fit(self, learning: LearningData) -> Numbers:
        """Loads the model.

        Raises:
            ValueError: it does not fit the data, its scaling statistics are others, or it has seen a test subject.
        """
        found = load_pretrained(self.checkpoint, learning.data)
        if learning.data.scaling.startswith("robust") and not _same_statistics(found, learning):
            raise ValueError(
                f"{found.path} was trained with other scaling statistics than this run's: the two cannot be compared "
                "on the same values; train both on the same subjects, or scale by recording_zscore"
            )
        for test_set in learning.data.test_sets:
            tested = learning.data.recordings.table.iloc[test_set.rows]
            refuse_seen(found.about, found.path, tested, f"to test on, of {test_set.name}")
        self.pretrained = found
        return {}

    def reconstruct(self, windows: MaskedWindows) -> Tensor:
        """See `ReconstructionMethod.reconstruct`."""
        assert self.pretrained is not None
        net = self.pretrained.model.to(windows.signal_BPT.device)
        prediction_BPT: Tensor = net(windows.signal_BPT, windows.hidden_BPN, windows.observed_BP).prediction_BPT
        return prediction_BPT


def _same_statistics(found: Pretrained, learning: LearningData) -> bool:
    return bool(found.statistics.to_json() == learning.data.statistics().to_json())
