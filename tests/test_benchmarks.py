import json
import re
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import gpu, loading, person, results, scaling, training_step
from benchmarks.reference import DenseAttention, PlainAutoencoder, plain_loss
from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.mae import MAEConfig, MaskedAutoencoder
from brainlm_lightning.model.masking import Grid, counter_noise, draw_mask

ROOT = Path(__file__).resolve().parents[1]
TINY = MAEConfig(patch_frames=5, embed_dim=16, depth=2, num_heads=2, decoder_embed_dim=24, decoder_num_heads=3)
PARCELS, FRAMES, VISIBLE, TOKENS = 6, 20, 7, 24


def geometry():
    return Geometry(torch.randn(PARCELS, 3, generator=torch.Generator().manual_seed(0)) * 40, FRAMES)


def lengths_seen(net):
    """Tokens that each block of a model takes."""
    seen = []
    for block in [module for name, module in net.named_modules() if re.search(r"coder\.(blocks\.)?\d$", name)]:
        block.register_forward_hook(lambda _, inputs, output: seen.append(tuple(inputs[0].shape)))
    return seen


def test_the_reference_computes_on_as_many_tokens_and_widths_as_we_do():
    signal_BPT, key_B = torch.randn(2, PARCELS, FRAMES), torch.arange(2)
    reference, ours = PlainAutoencoder(geometry(), TINY), MaskedAutoencoder(geometry(), TINY)
    reference_seen, our_seen = lengths_seen(reference), lengths_seen(ours)
    noise_BL = -counter_noise(key_B, TOKENS)  # here the lowest are visible, in `draw_mask` hidden
    _, hidden_BL = reference(signal_BPT, noise_BL, TOKENS - 18)
    observed_BP = torch.ones(2, PARCELS, dtype=torch.bool)
    hidden_BPN = draw_mask("random", key_B, 0.75, Grid(observed_BP, 4))
    ours(signal_BPT, hidden_BPN, observed_BP)
    assert reference_seen == our_seen == [(2, 7, 16), (2, 7, 16), (2, 25, 24), (2, 25, 24)]
    assert torch.equal(hidden_BL, hidden_BPN.flatten(1))


def test_dense_attention_is_softmax_attention():
    attention, x_BLD = DenseAttention(8, 2), torch.randn(1, 5, 8)
    q, k, v = (getattr(attention, name)(x_BLD).unflatten(-1, (2, 4)) for name in ("query", "key", "value"))
    heads = [torch.softmax(q[0, :, h] @ k[0, :, h].T / 2, dim=1) @ v[0, :, h] for h in range(2)]
    torch.testing.assert_close(attention(x_BLD)[0], attention.output(torch.cat(heads, dim=1)))


def patches_read(net, tokens):
    """Patches, (L,), on which the prediction of some tokens depends."""
    signal_BPT = torch.randn(1, PARCELS, FRAMES, requires_grad=True)
    prediction_BLS, _ = net(signal_BPT, counter_noise(torch.arange(1), TOKENS), VISIBLE)
    prediction_BLS[:, tokens].square().sum().backward()
    return signal_BPT.grad.unflatten(2, (4, 5)).abs().sum(-1).flatten() > 0


def test_the_reference_reads_no_hidden_value_and_restores_the_order():
    hidden_L = PlainAutoencoder(geometry(), TINY)(
        torch.randn(1, PARCELS, FRAMES), counter_noise(torch.arange(1), TOKENS), VISIBLE
    )[1][0]
    assert hidden_L.sum() == TOKENS - VISIBLE
    assert torch.equal(patches_read(PlainAutoencoder(geometry(), TINY), slice(None)), ~hidden_L)
    without_blocks = PlainAutoencoder(geometry(), SimpleNamespace(**{**asdict(TINY), "depth": 0, "decoder_depth": 0}))
    for token in (~hidden_L).nonzero().flatten().tolist():  # without attention a token is predicted from itself
        assert patches_read(without_blocks, token).nonzero().tolist() == [[token]]


def test_the_plain_loss_is_the_mean_over_hidden_patches():
    hidden_BL = torch.tensor([[True, False, True, False]])
    prediction_BLS = torch.tensor([1.0, 50.0, 3.0, 50.0])[None, :, None].expand(1, 4, 5)
    assert plain_loss(prediction_BLS, torch.zeros(1, 2, 10), hidden_BL) == 5  # (1 + 9) / 2


@pytest.mark.parametrize("make", [training_step.reference_step, lambda *sizes: training_step.our_step(*sizes, False)])
def test_a_measured_step_trains(make, monkeypatch):
    monkeypatch.setattr(training_step, "PARCELS", PARCELS)
    monkeypatch.setattr(training_step, "FRAMES", FRAMES)
    monkeypatch.setattr(training_step, "DEVICE", "cpu")
    step = make(TINY, 2)
    losses = [step() for _ in range(30)]
    assert losses[-1] < losses[0]


def test_flops_are_those_of_the_formula():
    def block(tokens, width):
        linears = 2 * tokens * width * (3 * width + width + 2 * 2 * width)  # qkv, output, and twice mlp_ratio 2
        return linears + 2 * 2 * tokens**2 * width  # scores and their product with the values

    forward = 2 * block(VISIBLE + 1, 16) + 2 * block(TOKENS + 1, 24)
    forward += 2 * (VISIBLE + 1) * 16 * 24 + 2 * TOKENS * 24 * 5  # decoder projection, head
    projection = 2 * VISIBLE * 5 * 16  # the signal needs no gradient: forward and the weight's
    assert gpu.step_flops(geometry(), TINY, VISIBLE) == 3 * forward + 2 * projection


@pytest.mark.parametrize(("size", "millions"), [("13M", 13.3), ("111M", 111), ("650M", 656)])
def test_sizes_are_those_of_the_experiments(size, millions):
    config = gpu.model_config(gpu.SIZES[size][0])
    with torch.device("meta"):
        net = MaskedAutoencoder(Geometry(torch.zeros(424, 3), 200), config)
    assert sum(parameter.numel() for parameter in net.parameters()) / 1e6 == pytest.approx(millions, rel=0.01)


def test_both_loaders_and_the_store_give_the_same_windows(tmp_path, monkeypatch):
    for name, value in {"WINDOW": 20, "BATCH": 4}.items():
        monkeypatch.setattr(loading, name, value)
    memory = np.random.default_rng(0).standard_normal((3, 30, 5)).astype(np.float32)
    memory -= memory.mean(axis=1, keepdims=True)
    store = loading.synthetic_store(tmp_path, memory)
    dataset = loading.WindowDataset(loading.Recordings.of([store]), "none", [store.statistics], 20)
    request = loading.random_request(np.random.default_rng(1), recordings=3, frames=30)
    copied = loading.copy_from(memory)(request)
    np.testing.assert_allclose(dataset.__getitems__(request)["signal_BPT"].transpose(1, 2), copied, atol=1e-6)
    public, _ = loading.public_recipe(memory)(request[:1])
    np.testing.assert_array_equal(public.T, copied[0])


def test_results_are_written_whole_with_machine_and_versions(tmp_path):
    path = results.save("speed", {"rows": [{"seconds": 1.5}], "nan": float("nan")}, tmp_path)
    content = json.loads(path.read_text())
    assert content["rows"] == [{"seconds": 1.5}]
    assert content["nan"] is None
    assert content["machine"]["threads"] == torch.get_num_threads()
    assert content["packages"]["torch"] == version("torch")
    assert [file.name for file in tmp_path.iterdir()] == ["speed.json"]


def test_results_say_which_instructions_the_processor_has(tmp_path, capsys):
    found = json.loads(results.save("speed", {}, tmp_path).read_text())["machine"]["instructions"]
    assert found[0] == f"torch {torch.backends.cpu.get_cpu_capability()}"
    results.show("speed", [{"seconds": 1.5}])
    assert " ".join(found) in capsys.readouterr().out


@pytest.mark.parametrize("variant", training_step.VARIANTS)
def test_every_variant_of_the_step_trains(variant, monkeypatch):
    for name, value in {"PARCELS": PARCELS, "FRAMES": FRAMES, "DEVICE": "cpu"}.items():
        monkeypatch.setattr(training_step, name, value)
    monkeypatch.setattr(training_step, "MAEConfig", lambda **chosen: replace(TINY, **chosen))
    step = training_step.make_step(variant, 2)
    losses = [step() for _ in range(30)]
    assert losses[-1] < losses[0]


def test_hidden_tokens_alone_give_the_loss_of_all(monkeypatch):
    for name, value in {"PARCELS": PARCELS, "FRAMES": FRAMES, "DEVICE": "cpu"}.items():
        monkeypatch.setattr(training_step, name, value)
    losses = [training_step.our_step(TINY, 2, False, share)() for share in (None, 1.0)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


def test_scaling_exchanges_what_rings_do(monkeypatch):
    """Two GPUs swap halves twice; a step on n GPUs computes an n-th of the batch; hours are operations over rates."""
    size = scaling.Size("x", parameters=1_000, flops=2_000, rate=1e6, measured=True)
    assert size.exchanged(2, scaling.DDP_PASSES) == 4_000
    assert size.exchanged(2, scaling.SHARDED_PASSES) == 6_000
    assert size.exchanged(512, scaling.DDP_PASSES) == pytest.approx(8_000, rel=0.01)
    assert size.computing(8) == pytest.approx(512 / 8 * 2e-3)
    assert size.hours(61_000) == pytest.approx(61_000 * 100 * 2e-3 / 3600)


def test_a_gpu_that_was_measured_takes_the_place_of_what_is_assumed(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "RESULTS", tmp_path)
    assert scaling.measured_rate("13M") is None
    results.save("gpu", {"rows": [{"size": "13M", "TFLOP/s": 123.0}]}, tmp_path)
    assert scaling.measured_rate("13M") == 123e12


def test_committed_results_name_no_folder_of_a_machine():
    found = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    assert found
    for path in found:
        assert not re.findall(r'"(?:/|~|[A-Z]:\\\\)[^"]*"', path.read_text())


def brains(strengths, frames, seed):
    """Series of people who differ in the strength of one pattern of parcels alone, by name, all parcels with data."""
    random = np.random.default_rng(seed)
    shared_P, own_P = np.ones(12), np.tile([1.0, -1.0], 6)
    found = {}
    for number, strength in enumerate(strengths):
        sources = random.standard_normal((2, frames))
        noise = 0.5 * random.standard_normal((12, frames))
        series = shared_P[:, None] * sources[0] + strength * own_P[:, None] * sources[1] + noise
        series /= series.std(axis=1, keepdims=True)
        found[f"sub-{seed}-{number}"] = [(series, np.ones(12, bool))]
    return found


def r2_of_hidden(people, persons, name, weight):
    sums = [person.hidden_sums(one, 0.5, getattr(people, name), weight) for one in persons]
    n, y, yy, _, pp, yp = np.sum(sums, axis=0)
    return 1 - (yy - 2 * yp + pp) / (yy - y * y / n)


def test_who_it_is_is_read_from_the_window_where_people_differ_in_one_direction():
    """What one pattern's strength decides is found from the visible parcels as from the person's other frames."""
    people = person.People(brains(np.linspace(0, 2, 15), 2000, 1))
    tested = []
    for name, [(series, used)] in brains((0.0, 0.3, 1.8, 2.0), 2000, 2).items():
        other = series[:, 200:]
        tested.append(person.Person(name, series[:, :200], other @ other.T / other.shape[1], 1800, used))
    group = r2_of_hidden(people, tested, "group", 0)
    other = r2_of_hidden(people, tested, "other", 1.0)
    assert other > group + 0.02
    assert r2_of_hidden(people, tested, "population", 0.01) == pytest.approx(other, abs=0.004)
    assert r2_of_hidden(people, tested, "other", 0.0) == group
    assert r2_of_hidden(people, tested, "population", 1e9) == pytest.approx(group, abs=1e-6)


def test_the_hidden_values_of_a_person_are_hidden_from_all_but_its_truth():
    """Spoiling what is hidden moves no expectation: its sums Σ ŷ and Σ ŷ² stay."""
    people = person.People(brains((0.5, 1.0, 1.5), 300, 1))
    [(name, [(series, used)])] = brains((1.0,), 400, 3).items()
    other = series[:, 200:] @ series[:, 200:].T / 200
    clean = person.Person(name, series[:, :200], other, 200, used)
    draw = np.random.default_rng(sum(name.encode())).permutation(12)
    spoilt_PT = series[:, :200].copy()
    spoilt_PT[draw[:6]] = 1e6
    spoilt = replace(clean, window_PT=spoilt_PT)
    for method in person.METHODS:
        before, after = (person.hidden_sums(one, 0.5, getattr(people, method), 0.5) for one in (clean, spoilt))
        assert before[3:5] == pytest.approx(after[3:5], rel=1e-9), method
        assert before[1] != after[1]
