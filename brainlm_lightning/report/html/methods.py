"""A paragraph on methods that a paper can use, and its references as BibTeX."""

import re
from collections.abc import Iterator
from typing import Any

from brainlm_lightning.evaluation.names import parsed
from brainlm_lightning.report.html.runs import Run, Runs, mapping
from brainlm_lightning.report.template import read

ENTRY = re.compile(r"@\w+\{(\w+),.*?\n\}\n", re.DOTALL)


def methods(runs: Runs) -> list[str]:
    """Sentences in the order of a methods section; citations are `[@key]` of the entries in `references`.

    Only what the runs say of themselves is stated; what they do not say is left out.
    """
    return [*_cohorts(runs), *_models(runs), *_questions(runs), *_statistics(runs), *_software(runs)]


def references(paragraph: list[str]) -> str:
    """BibTeX entries of everything that the paragraph cites, in order of first mention."""
    cited = dict.fromkeys(key for text in paragraph for group in re.findall(r"\[([^\]]*@[^\]]*)\]", text)
                          for key in re.findall(r"@(\w+)", group))  # fmt: skip
    entries = {found[1]: found[0] for found in ENTRY.finditer(read("references.bib"))}
    return "\n".join(entries[key] for key in cited)


def _cohorts(runs: Runs) -> Iterator[str]:
    seen: dict[str, dict[str, Any]] = {}
    for run in [*runs.tests, *runs.fits]:
        seen |= {name: of for name, of in run.cohorts.items() if name not in seen}
    for name, of in seen.items():
        split = of.get("split") or {}
        parts = ", ".join(f"{counts[1]} to {_purpose(part)}" for part, counts in split.items())
        drawn = "was simulated and " if of.get("simulated") else ""
        yield (
            f"The cohort {name} {drawn}holds {of['recordings']} recordings of {of['subjects']} subjects "
            f"({of['hours']:.0f} hours, repetition time {of['tr_s']:g} s), as mean signals of the {of['parcels']} "
            f"parcels of the atlas {of['atlas']}"
            + (
                f"; subjects, never recordings, were divided by a keyed hash of their identifiers ({parts})"
                if parts
                else ""
            )
            + "."
        )


def _purpose(part: str) -> str:
    return {"train": "train on", "val": "choose settings by", "test": "test on"}.get(part, part)


def _models(runs: Runs) -> Iterator[str]:
    for run in runs.fits:
        settings = mapping(mapping(run.settings.get("model")).get("init_args"))
        model, masking = settings.get("model"), settings.get("masking")
        if not isinstance(model, dict) or not isinstance(masking, dict):
            continue
        sizes = mapping(mapping(model.get("init_args")).get("config"))
        told = ", ".join(f"{name.replace('_', ' ')} {sizes[name]}" for name in SIZES if name in sizes)
        trainer, data = mapping(run.settings.get("trainer")), mapping(run.settings.get("data"))
        kind = str(model.get("class_path", "")).rsplit(".", 1)[-1]
        yield (
            f"{run.experiment}: a {KINDS.get(kind, kind)} ({told or 'sizes as in its configuration'}) was trained to "
            f"reconstruct hidden patches (share hidden {masking.get('ratio')}, {masking.get('strategy')}) of windows "
            f"of {data.get('window_frames')} frames, scaled by {data.get('scaling')}, for {_length(trainer)} of "
            f"{data.get('global_batch_size')} windows."
        )


SIZES = (
    "patch_frames",
    "embed_dim",
    "depth",
    "num_heads",
    "decoder_embed_dim",
    "decoder_depth",
    "hidden_dim",
    "latent_dim",
    "width",
)
KINDS = {
    "MaskedAutoencoder": "masked autoencoder [@he2022masked] after BrainLM [@ortegacaro2024brainlm]",
    "TiedAutoencoder": "masked autoencoder [@he2022masked] with tied attention [@rao2021msa]",
    "TiedPriorAutoencoder": "masked autoencoder [@he2022masked] with tied attention [@rao2021msa] on a Gaussian prior",
    "VariationalAutoencoder": "variational autoencoder [@kingma2014auto]",
    "GraphConvolutionalNetwork": "graph convolutional network [@kipf2017semi]",
}


def _length(trainer: dict[str, Any]) -> str:
    steps, epochs = trainer.get("max_steps"), trainer.get("max_epochs")
    return (
        f"{steps} steps"
        if steps not in (None, -1)
        else f"{epochs} epochs"
        if epochs
        else "the steps of its configuration"
    )


def _questions(runs: Runs) -> Iterator[str]:
    questions = {name: run for run in runs.tests for name in SENTENCES if _asks(run, name)}
    yield from (SENTENCES[name] for name in SENTENCES if name in questions)


def _asks(run: Run, name: str) -> bool:
    """Whether a run has results of a condition, or a score, of this name."""
    return any(of.condition.startswith(name) or of.score.startswith(name) for of in parsed(run.metrics))


SENTENCES = {
    "hidden": (
        "Reconstruction was scored by R² pooled over all hidden values of the test subjects' windows; every method "
        "saw the same windows and masks, and linear opponents (interpolation, conditional Gaussians, "
        "Gaussian-process smoothers) were tuned on validation subjects."
    ),
    "horizon": (
        "Forecasts were scored by R², Pearson's r and squared error over the frames after a context, beside "
        "autoregressions, an LSTM [@hochreiter1997long], a neural ODE [@chen2018neural] and a latent ODE "
        "[@rubanova2019latent], as far as the runs include them."
    ),
    "mse_scaled": (
        "Phenotypes were predicted in cross-validation over subjects, with every choice made inside the training "
        "folds; the opponents were functional connectivity, raw series and the same networks without pretraining."
    ),
    "networks": (
        "Parcels were put into functional networks by nearest neighbours on each method's features, 80 % of a "
        "recording's parcels training and 20 % testing; features came from attention, other models, connectivity and "
        "position."
    ),
    "num_parcels_fdr": (
        "Groups of recordings were contrasted parcel by parcel with permutation tests over subjects, at a false "
        "discovery rate of 0.05."
    ),
}


def _statistics(runs: Runs) -> Iterator[str]:
    if runs.tests:
        yield (
            "Intervals are 95 % percentile intervals from resampling subjects [@efron1993introduction]; methods were "
            "compared in paired tests over subjects (Wilcoxon's signed-rank test [@wilcoxon1945individual], or a "
            "paired bootstrap for clinical variables), corrected by Benjamini and Hochberg's procedure "
            "[@benjamini1995controlling] over each test run."
        )


def _software(runs: Runs) -> Iterator[str]:
    versions = next((run.provenance.get("packages") or {} for run in runs.tests if run.provenance.get("packages")), {})
    if versions:
        yield (
            f"All was run with BrainLM-Lightning {versions.get('brainlm-lightning', '')}, PyTorch "
            f"{versions.get('torch', '')} [@paszke2019pytorch], scikit-learn {versions.get('scikit-learn', '')} "
            f"[@pedregosa2011scikit] and nilearn {versions.get('nilearn', '')} [@abraham2014machine]."
        )
