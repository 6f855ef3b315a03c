"""Tables and figures of functional networks."""

import numpy as np
import pytest
from rich.console import Console

from brainlm_lightning.report.network import NetworkPage
from brainlm_lightning.report.network_figures import confusion_figure, missed
from brainlm_lightning.report.tables import markdown, tables

NAMES = ["Vis", "Default", "own"]


def score(method, accuracy, cohort="abide"):
    prefix, found = f"test/{cohort}/networks/{method}", {}
    for name, value in (("accuracy", accuracy), ("balanced_accuracy", accuracy - 0.1)):
        found |= {
            f"{prefix}/{name}": value,
            f"{prefix}/{name}_low": value - 0.02,
            f"{prefix}/{name}_high": value + 0.02,
        }
    return found | {f"{prefix}/num_subjects": 12.0, f"{prefix}/num_recordings": 13.0}


def compared(method, difference, p, reference="attention"):
    prefix = f"test/abide/networks/{reference}_minus_{method}"
    return {f"{prefix}/accuracy": difference, f"{prefix}/p": p, f"{prefix}/p_corrected": p}


@pytest.fixture
def metrics():
    found = score("attention", 0.7912) | score("vae", 0.5) | score("raw_series", 0.8) | score("position", 0.6)
    found |= compared("vae", 0.29, 0.01) | compared("raw_series", -0.01, 0.03) | compared("position", 0.1, 0.2)
    return found | {"test/abide/networks/num_parcels_left_out": 73.0, "loss": 1.0}


def test_rows_are_in_per_cent_with_stars_where_the_accuracy_differs(metrics):
    text = markdown(metrics)
    assert "| attention | 79.1 [77.1, 81.1] | 69.1 [67.1, 71.1] |" in text
    assert r"| VAE's embedding | 50.0 [48.0, 52.0] \*↓ |" in text
    assert r"| raw series | 80.0 [78.0, 82.0] \*↑ |" in text
    assert "| position (x, y, z) | 60.0 [58.0, 62.0] |" in text
    (table,) = NetworkPage().tables(metrics)
    assert [row[0] for row in table.rows] == [
        "method", "attention", "VAE's embedding", "raw series", "position (x, y, z)"
    ]  # fmt: skip


def test_the_printed_table_says_what_was_left_out_tested_and_found_by_the_paper(metrics):
    (table,) = tables(metrics)
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table)
    text = " ".join(capture.get().split())
    for part in ("Functional networks, abide", "73 parcels without", "13 recordings", "12 subjects", "2 of the 3 comp",
                 "attention 58.8", "raw series 39.2", "VAE's embedding 49.4", "GCN's embedding 25.9"):  # fmt: skip
        assert part in text
    assert [str(table.title) for table in tables(metrics)] == ["Functional networks, abide"]  # no other family's
    assert list(NetworkPage().tables({"loss": 1.0})) == []


def test_another_reading_may_be_the_reference(metrics):
    other = {name.replace("attention", "first_layer"): value for name, value in metrics.items()}
    assert "differs from first layer" in markdown(other)


def test_missed_is_the_share_of_wrong_votes_of_tested_parcels():
    votes_PQ = np.array([[3, 1, 0], [0, 0, 0], [0, 0, 5], [1, 0, 0]])
    np.testing.assert_array_equal(missed(votes_PQ, np.array([0, 1, 2, -1])), [0.25, np.nan, 0, np.nan])


def made(metrics, arrays):
    return {file.name: file.make() for file in NetworkPage().files(metrics, arrays)}


@pytest.fixture
def arrays():
    generator = np.random.default_rng(0)
    votes_PQ = generator.integers(0, 9, (12, 3))
    return {
        "networks/names": np.array(NAMES),
        "networks/number_P": np.repeat([0, 1, 2, -1], 3),
        "networks/xyz_mm": generator.uniform(-60, 60, (12, 3)),
        "test/abide/networks/attention/votes_PC": votes_PQ,
        "test/abide/networks/attention/confusion_RCC": generator.integers(0, 9, (5, 3, 3)),
    }


def test_figures_name_axes_units_sides_and_networks(metrics, arrays):
    figures = made(metrics, arrays)
    texts = {name: {text.get_text() for text in figure.findobj(match=lambda a: hasattr(a, "get_text"))}
             for name, figure in figures.items()}  # fmt: skip
    assert set(figures) == {f"networks_abide_{kind}" for kind in ("accuracy", "confusion", "missed", "map")}
    assert {"left hemisphere", "right hemisphere", "times when tested (%)"} <= texts["networks_abide_missed"]
    assert {"left hemisphere", "right hemisphere", "atlas", "predicted by most votes", *NAMES} <= texts[
        "networks_abide_map"
    ]
    assert {"predicted network", "network in the atlas", "test parcels of the true network (%)"} <= texts[
        "networks_abide_confusion"
    ]
    assert made({"loss": 1.0}, {}) == {}


def test_confusion_is_shown_in_per_cent_of_each_true_network():
    axes = confusion_figure(np.array([[3, 1, 0], [0, 0, 0], [5, 5, 10]]), NAMES, "title").axes[0]
    assert [text.get_text() for text in axes.texts] == ["75", "25", "0", "0", "0", "0", "25", "25", "50"]


def test_the_papers_accuracy_stands_beside_the_methods_that_have_one(metrics, arrays):
    axes = made(metrics, arrays)["networks_abide_accuracy"].axes[0]
    paper = sorted(float(line.get_xdata()[0]) for line in axes.lines if line.get_label().startswith("paper"))
    assert paper == [39.2, 49.4, 58.8]
    assert axes.get_yticklabels()[0].get_text() == "attention"
