"""BrainLM-Lightning: masked autoencoders for parcellated fMRI, as a PyTorch Lightning experiment framework."""

from importlib.metadata import version

__version__ = version("brainlm-lightning")
