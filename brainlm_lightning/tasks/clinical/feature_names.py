"""Names of the features that baselines learn from, read in this file alone.

connectivity, confounds, gram …      see `RecordingFeatures.of`
untrained_gram                       of the encoder before its pretraining
harmonised_connectivity              without what sites shift and scale; also harmonised_untrained_gram
confounds+connectivity               side by side
"""

from collections.abc import Iterable

JOINT = "+"
UNTRAINED = "untrained_"
HARMONISED = "harmonised_"
TANGENT, COVARIANCE = "tangent", "covariance"  # in tangent spaces, of the signal's covariance and of the tokens'
OF_RECORDINGS = ("none", "confounds", "raw", "connectivity", TANGENT, "signal_features")
CLS_AND_MEAN = "embedding"
# Embeddings of windows that take nothing from the encoder, by their names among the embeddings.
OF_THE_SIGNAL = {
    "window_connectivity": "connectivity",
    "window_network_connectivity": "network_connectivity",
}
NEVER_HARMONISED = ("none", "confounds", TANGENT, COVARIANCE)  # no features, or not yet numbers
FEW = (CLS_AND_MEAN, "cls", "mean", "mean_std", "signal_features")  # few numbers, of different units


def parts_of(name: str) -> list[str]:
    """The features that are joined in a name; a single one is itself."""
    return name.split(JOINT)


def bare(part: str) -> str:
    """Without the prefixes of harmonised features and of the untrained encoder."""
    return as_measured(part).removeprefix(UNTRAINED)


def as_measured(part: str) -> str:
    """Without the prefix of harmonised features."""
    return part.removeprefix(HARMONISED)


def embedding_of(part: str) -> str | None:
    """The name among the embeddings of windows, or None: it is computed otherwise."""
    if part in OF_RECORDINGS or bare(part) == CLS_AND_MEAN:
        return None
    return OF_THE_SIGNAL.get(part, bare(part))


def check_features(name: str, embeddings: Iterable[str]) -> None:
    """Checks that features exist, before any work.

    Args:
        name: of the features.
        embeddings: names of the embeddings of windows that this cohort can have.

    Raises:
        ValueError: a part is unknown; says what there is.
    """
    of_the_encoder = [CLS_AND_MEAN, *(own for own in embeddings if own not in OF_THE_SIGNAL.values())]
    of_the_signal = [own for own, name in OF_THE_SIGNAL.items() if name in set(embeddings)]
    known = [*OF_RECORDINGS, *of_the_signal, *of_the_encoder, *(f"{UNTRAINED}{own}" for own in of_the_encoder)]
    known += [f"{HARMONISED}{own}" for own in known if bare(own) not in NEVER_HARMONISED]
    parts = parts_of(name)
    unknown = [part for part in parts if part not in known]
    if unknown or len(set(parts)) < len(parts):
        shown = ", ".join(own for own in known if not own.startswith(HARMONISED))
        raise ValueError(
            f"features {name!r}: expected some of {shown}, each once, joined by {JOINT!r}, or {HARMONISED} before any "
            f"but {', '.join(NEVER_HARMONISED)}; "
            f"got {', '.join(unknown) or 'one of them twice'}"
        )
