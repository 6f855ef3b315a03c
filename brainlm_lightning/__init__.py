"""BrainLM-Lightning: masked autoencoders for parcellated fMRI, as a PyTorch Lightning experiment framework.

Names of arrays and tensors end in their shape, one letter per axis, with one meaning per letter in the whole package:

    B windows of a batch      P parcels               T frames                 N patches per parcel
    S frames per patch        L tokens                V visible tokens         D width of an embedding
    R recordings              U subjects              K the six sums of a score (`evaluation.metrics`)
    C frames of the context   H frames of the horizon Q classes or networks    F features
    O outputs                 M metrics               J pairs of recordings    I optimiser steps
    Z latent dimensions, or directions that a decomposition keeps               E edges (parcel pairs)
    A resampling draws        G groups                X folds                  W repeats of folds
    Y values to be read       n rows of a fold        k lags or neighbours     p observed parcels

A digit is an axis of that length: `centre_BP1`, `mse_3H` (estimate, low, high). The axes of attention are in lower
case: l layers, h heads, d width of a head, q queries, u units (CLS and the parcels). Arrays in run folders
(`arrays.npz`) keep the names that they were first written with.
"""

from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

__version__ = version("brainlm-lightning")


def load(source: Path | str) -> Any:
    """Loads a model for embedding recordings: ``load(source).embed("sub-01.ptseries.nii", tr_s=0.8)``.

    Args:
        source: exported folder, exported or imported ``.safetensors``, ``.ckpt`` of a run, or ``hf://OWNER/NAME``.

    Returns:
        An `embedding.one_line.EmbeddingModel`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no model of this package.
    """
    # By name, because data are prepared on machines without torch, and every module imports this one.
    return import_module("brainlm_lightning.embedding.one_line").load(source)


def from_pretrained(pretrained_model_name_or_path: Path | str, **options: Any) -> Any:
    """Rebuilds the torch module of an exported folder, or of OWNER/NAME on the Hugging Face hub.

    Args:
        pretrained_model_name_or_path: the folder, which needs no network; or the name.
        options: of the hub: ``revision``, ``token``, ``cache_dir``, ``local_files_only``.

    Returns:
        A `model.masked.MaskedModel` in evaluation mode.

    Raises:
        FileNotFoundError: there is no such folder, or it lacks a file.
        ValueError: its files do not belong together.
    """
    sharing = import_module("brainlm_lightning.checkpoint.shared_folder")
    return sharing.from_pretrained(pretrained_model_name_or_path, **options)
