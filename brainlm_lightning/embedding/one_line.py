"""One line from a recording to its embedding, by what a checkpoint says of its data.

Shapes: R recordings, B windows, P parcels, T frames, F features.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from brainlm_lightning.checkpoint.description import Description
from brainlm_lightning.checkpoint.hub import fetched
from brainlm_lightning.checkpoint.other_atlas import WIDTH_MM, described_on, moved, own_part, position_weights
from brainlm_lightning.checkpoint.pretrained import load_model
from brainlm_lightning.checkpoint.reference import reference_of
from brainlm_lightning.data.atlas import Atlas
from brainlm_lightning.data.parcellation import UNKNOWN_NETWORK
from brainlm_lightning.data.read import Expected, Orientation
from brainlm_lightning.data.scaling import WITHOUT_STATISTICS, ScalingStatistics, centre_and_scale
from brainlm_lightning.data.windows import Batch, scale_on_device, usable_parcels
from brainlm_lightning.embedding.definitions import (
    WindowEmbedding,
    default_embeddings,
    named_embeddings,
)
from brainlm_lightning.embedding.inputs import Series, prepared, read_recording
from brainlm_lightning.embedding.pairs import WITHOUT_PARCELS
from brainlm_lightning.embedding.recordings import GroupMeans
from brainlm_lightning.model.masked import MaskedModel
from brainlm_lightning.run_folder import EXPORTED

WINDOWS_AT_ONCE = 4


class UnlikeTraining(UserWarning):
    """A recording looks unlike those that a model was trained on."""


@dataclass(frozen=True)
class EmbeddingModel:
    """A model with all that a recording needs to be embedded by it.

    Attributes:
        model: in evaluation mode.
        about: the description in its checkpoint: parcels, ``tr_s``, window, scaling.
    """

    model: MaskedModel
    about: Description

    def embed(
        self,
        recording: Series | Path | str,
        *,
        tr_s: float | None = None,
        atlas: Atlas | str | None = None,
        embeddings: Sequence[str] | None = None,
        orientation: Orientation = "frames_parcels",
        label_image: Path | str | None = None,
        parts: int = 1,
    ) -> dict[str, NDArray[np.float32]]:
        """Embeds one recording: reads, resamples and scales it as the checkpoint says; the mean over its windows.

        Windows lie side by side from the first frame on; frames after the last whole window are not used.

        Args:
            recording: (frames, parcels) raw values, NaN or 0 where a frame has no data; or a file that `prepare` can
                read, for instance a text table, ``.ptseries.nii``, ``archive.npz::name``, or, with ``label_image``, a
                volume.
            tr_s: seconds from one frame to the next; may be left out where the file says it.
            atlas: what the columns are: the parcel table, or the name of the checkpoint's atlas, by which you say that
                the columns stand in its order. May be left out for files that name their columns.
            embeddings: names; None = the default ones of `embedding.definitions` but those that decode.
            orientation: of the array, or of the series in the file.
            label_image: the atlas's label image, for volumes.
            parts: in how many parts a window's tokens are encoded; see `embedding.states`.

        Returns:
            Name -> (F,) float32.

        Warns:
            UnlikeTraining: the recording looks unlike those of the pretraining, in level, spectrum, dimensions or
                connectivity; with the numbers.

        Raises:
            ValueError: the recording does not fit the checkpoint (parcels, their order, length), or its ``tr_s`` or
                atlas is unknown; an embedding is unknown, or the model cannot have it.
        """
        batch = self.read(recording, tr_s=tr_s, atlas=atlas, orientation=orientation, label_image=label_image)
        self._warn(batch, recording)
        return self.embed_windows(batch, atlas=atlas, embeddings=embeddings, parts=parts)

    def read(
        self,
        recording: Series | Path | str,
        *,
        tr_s: float | None = None,
        atlas: Atlas | str | None = None,
        orientation: Orientation = "frames_parcels",
        label_image: Path | str | None = None,
    ) -> Batch:
        """The windows of a recording, read and resampled as the checkpoint says, with its scaling; see `embed`."""
        if atlas is not None:
            self.check_atlas(atlas)
        expected = self._expected(orientation, label_image)
        return self.windows(*read_recording(recording, tr_s, expected, atlas is not None))

    def embed_windows(
        self,
        batch: Batch,
        *,
        atlas: Atlas | str | None = None,
        embeddings: Sequence[str] | None = None,
        parts: int = 1,
    ) -> dict[str, NDArray[np.float32]]:
        """The mean embeddings of windows from `read`; see `embed`."""
        means = GroupMeans(self.model, self._definitions(embeddings, atlas), 1, parts)
        for first in range(0, len(batch["start_B"]), WINDOWS_AT_ONCE):
            part = _some_windows(batch, slice(first, first + WINDOWS_AT_ONCE))
            means.add(scale_on_device(part), torch.zeros(len(part["start_B"]), dtype=torch.int64))
        return {name: value_1F[0] for name, value_1F in means.compute().items()}

    def unlike(self, batch: Batch) -> list[str] | None:
        """Says in which numbers a recording lies outside the training recordings', as text; empty = in none.

        Args:
            batch: all its windows; see `windows`.

        Returns:
            None where the checkpoint does not say what its training recordings look like, as imported ones do not.
        """
        reference = reference_of(self.about)
        if reference is None:
            return None
        scaled = scale_on_device(cast(Batch, dict(batch)))
        series_PF = scaled["signal_BPT"].transpose(0, 1).flatten(1).float().numpy()
        return reference.unlike((series_PF, scaled["observed_BP"][0].numpy()))

    def _warn(self, batch: Batch, recording: Series | Path | str) -> None:
        found = self.unlike(batch)
        if found:
            what = recording if isinstance(recording, Path | str) else "the recording"
            warnings.warn(
                f"{what} looks unlike the recordings that the model was trained on; its embedding may mean little:\n  "
                + "\n  ".join(found),
                UnlikeTraining,
                stacklevel=3,
            )

    def on(self, atlas: Atlas, width_mm: float = WIDTH_MM) -> "EmbeddingModel":
        """The same model for recordings in another atlas: spatial embeddings are mapped by position, and it says so.

        In one of several atlases that it was trained on, it is the model of that one alone; nothing is mapped.

        Args:
            atlas: parcels of the recordings, with centroids in the space of the checkpoint's.
            width_mm: standard deviation of the kernel; see `checkpoint.other_atlas`.

        Raises:
            ValueError: the scaling needs statistics of the checkpoint's own parcels; or the model cannot move.
        """
        own = own_part(self.model, self.about, atlas, {})
        if own is not None:
            return EmbeddingModel(*own)
        recipe, parcels = self.about["scaling"]["recipe"], self.about["parcels"]
        if recipe not in WITHOUT_STATISTICS:
            raise ValueError(
                f"the checkpoint scales by {recipe!r}, with statistics of its own parcels in {parcels['atlas']!r}; "
                f"only models with {' or '.join(WITHOUT_STATISTICS)} move without data of the new atlas; pretrain "
                "further on a prepared cohort with start_from"
            )
        xyz_to_mm = torch.tensor(atlas.xyz_mm)
        weights_QP = position_weights(torch.tensor(parcels["xyz_mm"]), xyz_to_mm, width_mm)
        statistics = ScalingStatistics.unknown(atlas.num_parcels)
        about = described_on(self.about, atlas, statistics, {"mapping": "position", "width_mm": width_mm})
        return EmbeddingModel(moved(self.model, xyz_to_mm, weights_QP), about)

    def check_atlas(self, atlas: Atlas | str) -> None:
        """Raises ValueError where an atlas, or its name, is not the checkpoint's."""
        own = self.about["parcels"]
        if isinstance(atlas, Atlas):
            if atlas.sha256 != own["sha256"]:
                raise ValueError(
                    f"the atlas {atlas.name!r} ({atlas.num_parcels} parcels, sha256 {atlas.sha256[:12]}…) is not the "
                    f"checkpoint's {own['atlas']!r} ({len(own['index'])} parcels, sha256 {own['sha256'][:12]}…): "
                    "parcels, their order or their centroids differ; extract the series with the checkpoint's atlas"
                )
        elif atlas != own["atlas"]:
            raise ValueError(
                f"the recording is in atlas {atlas!r}, the checkpoint in {own['atlas']!r} ({len(own['index'])} "
                "parcels); extract the series with the checkpoint's atlas, or move the model: model.on(atlas)"
            )

    def _expected(self, orientation: Orientation, label_image: Path | str | None) -> Expected:
        parcels = self.about["parcels"]
        ids, labels = tuple(parcels["index"]), tuple(parcels["label"])
        return Expected(orientation, len(ids), ids, labels, image=str(label_image or ""))

    def _definitions(self, names: Sequence[str] | None, atlas: Atlas | str | None) -> Mapping[str, WindowEmbedding]:
        networks = atlas.networks.tolist() if isinstance(atlas, Atlas) else [UNKNOWN_NETWORK]
        if names is None:
            default = default_embeddings(networks, UNKNOWN_NETWORK)
            possible = set(default) if self.model.has_parcels else set(WITHOUT_PARCELS)
            return {name: of for name, of in default.items() if name in possible and not of.needs}
        known = named_embeddings(networks, UNKNOWN_NETWORK)
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(
                f"no embedding {unknown[0]!r}; there are {', '.join(known)}"
                + ("" if "network_gram" in known else "; those of networks need `atlas` as a table with networks")
            )
        placed = [name for name in names if known[name].space() is not None]
        if placed:
            raise ValueError(
                f"{placed[0]} is a place among training recordings, which a single recording has not: it exists in "
                "IdentityTask and ClinicalTask alone; embed `gram`"
            )
        return {name: known[name] for name in names}

    def windows(self, series: Series, tr_s: float) -> Batch:
        """All windows of a recording as a batch, with the scaling of the checkpoint.

        Args:
            series: (frames, P) raw values.
            tr_s: seconds from one frame to the next.

        Raises:
            ValueError: there is not one window.
        """
        recording = prepared(series, tr_s, self.about["tr_s"])
        frames, count = self.about["window_frames"], len(recording.series) // self.about["window_frames"]
        if count == 0:
            raise ValueError(
                f"the recording has {len(recording.series)} frames at the checkpoint's tr_s of {self.about['tr_s']} s; "
                f"a window has {frames}: embed a longer recording"
            )
        recipe = self.about["scaling"]["recipe"]
        statistics = ScalingStatistics.from_json(self.about["scaling"]["statistics"])
        centre, scale = centre_and_scale(recipe, statistics, recording.mean, recording.std)
        observed = recording.observed & usable_parcels(recipe, statistics)
        signal = recording.series[: count * frames].reshape(count, frames, -1)
        return {
            "signal_BPT": torch.from_numpy(signal).transpose(1, 2),
            "centre_BP": torch.from_numpy(centre).expand(count, -1),
            "scale_BP": torch.from_numpy(scale).expand(count, -1),
            "observed_BP": torch.from_numpy(observed).expand(count, -1),
            "recording_index_B": torch.zeros(count, dtype=torch.int64),
            "start_B": torch.arange(count) * frames,
            "key_B": torch.arange(count),
        }


def load(source: Path | str) -> EmbeddingModel:
    """Loads a model for embedding; see `brainlm_lightning.load`."""
    path = fetched(source)
    model, about = load_model(path / EXPORTED if path.is_dir() else path, MaskedModel)
    return EmbeddingModel(model, about)


def _some_windows(batch: Batch, windows: slice) -> Batch:
    tensors = cast(dict[str, torch.Tensor], batch)
    return cast(Batch, {name: value[windows] for name, value in tensors.items()})
