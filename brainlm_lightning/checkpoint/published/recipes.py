"""The input scalings that public code feeds the published models with, under names.

The scaling of the published training was never released, and public code disagrees: at least four scalings go by the
name of BrainLM's. Each is expressed as a recipe of this package with statistics of a cohort's training subjects, an
input gain and an offset, so that a checkpoint says which one it has. None is known to be that of the training;
`calibrate` measures what serves a cohort.

Shapes: P parcels.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from brainlm_lightning.checkpoint.description import Description, describe_model
from brainlm_lightning.data.scaling import CentreScale, ScalingStatistics
from brainlm_lightning.data.store import Store
from brainlm_lightning.model.masked import MaskedModel
from brainlm_lightning.model.published.vitmae import LARGEST_VALUE, VitMAE


@dataclass(frozen=True)
class PublicRecipe:
    """A scaling found in public code.

    Attributes:
        scaling: recipe of `data.scaling`.
        statistics: for it, of the cohort's training subjects.
        gain: factor on the scaled signal.
        offset: added after it.
    """

    scaling: str
    statistics: ScalingStatistics
    gain: float = 1.0
    offset: float = 0.0


def brainmarks(store: Store, model: MaskedModel) -> PublicRecipe:
    """Brainmarks' wrapper: (x - median) / IQR of raw values, over 5.643 for the ViT-MAE models."""
    return PublicRecipe("robust", store.statistics, 1 / LARGEST_VALUE if isinstance(model, VitMAE) else 1.0)


def toolkit(store: Store, model: MaskedModel) -> PublicRecipe:
    """BrainLM's toolkit, as it runs: x - median / IQR. The brackets of (x - median) / IQR are missing."""
    robust = store.statistics.robust
    slip = CentreScale(robust.centre / robust.scale, np.where(np.isfinite(robust.scale), 1.0, np.nan))
    return PublicRecipe("robust", replace(store.statistics, robust=slip))


def toolkit_intended(store: Store, model: MaskedModel) -> PublicRecipe:
    """BrainLM's toolkit, as it was meant: (x - median) / IQR."""
    return PublicRecipe("robust", store.statistics)


def converter(store: Store, model: MaskedModel) -> PublicRecipe:
    """BrainLM's older converter: values as they are."""
    return PublicRecipe("none", store.statistics)


def tutorial(store: Store, model: MaskedModel) -> PublicRecipe:
    """BrainLM's tutorial: (x - min) / (max - min) over all values of all training recordings, over 5.643."""
    low, high = _range(store)
    gain = 1 / ((high - low) * LARGEST_VALUE)
    return PublicRecipe("none", store.statistics, gain, -low * gain)


RECIPES: dict[str, Callable[[Store, MaskedModel], PublicRecipe]] = {
    of.__name__: of for of in (brainmarks, toolkit, toolkit_intended, converter, tutorial)
}


def with_recipe(model: MaskedModel, about: Description, name: str, store: Store) -> tuple[MaskedModel, Description]:
    """The same weights with a scaling of public code, which the description names.

    Args:
        model: imported.
        about: its description; its parcels must be the cohort's.
        name: one of `RECIPES`.
        store: cohort whose training subjects give the statistics.

    Raises:
        ValueError: there is no such recipe; the model has no input gain; or the atlas is another one.
    """
    if name not in RECIPES:
        raise ValueError(f"no recipe {name!r}; public code has {', '.join(RECIPES)}")
    if not hasattr(model.config, "input_gain"):
        raise ValueError(f"a {model.name} has the scaling that it was trained with; recipes are for imported models")
    if about["parcels"]["sha256"] != store.atlas.sha256:
        raise ValueError(f"{store.folder} is in another atlas than the model's {about['parcels']['atlas']!r}")
    recipe = RECIPES[name](store, model)
    config = replace(model.config, input_gain=recipe.gain, input_offset=recipe.offset)
    net = type(model)(model.geometry, config)
    net.load_state_dict(model.state_dict())
    scaling = {"recipe": recipe.scaling, "statistics": recipe.statistics.to_json(), "public_code": name}
    return net.eval(), {**about, "model": describe_model(net), "scaling": scaling}


def _range(store: Store) -> tuple[float, float]:
    """Lowest and highest raw value of the training recordings."""
    rows = np.flatnonzero(store.recordings["split"] == "train")
    if not len(rows):
        raise ValueError(f"{store.folder} has no training recordings; the tutorial's scaling is that of their range")
    ends = [(float(np.nanmin(series)), float(np.nanmax(series))) for series in map(store.raw, rows.tolist())]
    return min(low for low, _ in ends), max(high for _, high in ends)
