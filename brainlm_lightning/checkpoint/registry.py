"""Model classes that checkpoints may refer to: those of this package, and those registered by other packages.

Another package registers a model by an entry point, for instance in its ``pyproject.toml``:

    [project.entry-points."brainlm_lightning.models"]
    my_model = "my_package.my_module:MyModel"

Classes that are already imported (for instance by ``class_path`` in an experiment file) are known, too. No other module
is ever imported because a checkpoint refers to it.
"""

import importlib
from importlib.metadata import entry_points
from typing import Any

from torch import nn

PACKAGE = "brainlm_lightning"
GROUP = f"{PACKAGE}.models"
# New locations of classes in checkpoints that were written before version 0.2.
MOVED = {
    f"{PACKAGE}.baselines.vae.VariationalAutoencoder": f"{PACKAGE}.model.vae.VariationalAutoencoder",
    f"{PACKAGE}.baselines.gcn.GraphConvolutionalNetwork": f"{PACKAGE}.model.gcn.GraphConvolutionalNetwork",
    f"{PACKAGE}.model.forecast.MAEForecaster": f"{PACKAGE}.tasks.forecast.net.MAEForecaster",
    f"{PACKAGE}.baselines.lstm.LSTM": f"{PACKAGE}.tasks.forecast.lstm.LSTM",
    f"{PACKAGE}.baselines.neural_ode.NeuralODE": f"{PACKAGE}.tasks.forecast.neural_ode.NeuralODE",
    f"{PACKAGE}.baselines.latent_ode.LatentODE": f"{PACKAGE}.tasks.forecast.latent_ode.LatentODE",
}


def class_path(kind: type) -> str:
    """The dotted name of a class in checkpoints."""
    return f"{kind.__module__}.{kind.__qualname__}"


def current_path(path: str) -> str:
    """The current dotted name of a class that may have moved."""
    return MOVED.get(path, path)


def build(about: dict[str, Any], base: type[nn.Module], source: str) -> Any:
    """Builds the model that a checkpoint describes, with random weights, by its class's `from_description`.

    Args:
        about: the checkpoint's description.
        base: required base class.
        source: name of the checkpoint in error messages.

    Raises:
        ValueError: the class is unknown, or not a subclass of ``base``, or does not take what is described.
    """
    path = current_path(about["model"]["class_path"])
    kind: Any = find(path)
    if kind is None:
        raise ValueError(
            f"{source} holds a {path}, which is unknown here: install the package that defines it and registers it in "
            f"the entry-point group {GROUP!r}, or name the class in the experiment file"
        )
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise ValueError(f"{source} holds a {path}; expected a {base.__name__}")
    described: Any = kind
    try:
        return described.from_description(about)
    except TypeError as error:
        raise ValueError(
            f"{source}: its description does not fit a {path}: {error}; export the model or train it again"
        ) from error


def find(path: str) -> Any:
    """The class of this name: imported already, of this package, or registered by another; None where it is neither."""
    imported = {class_path(kind): kind for kind in _subclasses(nn.Module)}
    if path in imported:
        return imported[path]
    if path.startswith(f"{PACKAGE}."):
        module, _, name = path.rpartition(".")
        try:
            return getattr(importlib.import_module(module), name, None)
        except ModuleNotFoundError:
            return None
    registered = {entry.value.replace(":", "."): entry for entry in entry_points(group=GROUP)}
    return registered[path].load() if path in registered else None


def _subclasses(kind: type) -> set[type]:
    own: set[type] = set(kind.__subclasses__())
    return own.union(*(_subclasses(each) for each in own))
