"""Embeddings against naive loops and closed forms."""

import numpy as np
import pytest
import torch

from brainlm_lightning.embedding.definitions import (
    Attention,
    Cls,
    CompletedConnectivity,
    Connectivity,
    Covariance,
    Gram,
    Mean,
    MeanStd,
    NetworkGram,
    Parcels,
    Residual,
    default_embeddings,
    named_embeddings,
)
from brainlm_lightning.embedding.recordings import GroupMeans, by_subject
from brainlm_lightning.embedding.states import WindowStates, hidden_parts, window_states
from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.mae import MAEConfig, MaskedAutoencoder
from brainlm_lightning.model.prior import PriorAutoencoder
from brainlm_lightning.model.smoother.gradients import Accuracy
from brainlm_lightning.model.tied import TiedAutoencoder, TiedConfig
from brainlm_lightning.model.vae import VAEConfig, VariationalAutoencoder

PARCELS, FRAMES, PATCH, NETWORKS = 6, 20, 5, ["a", "b", "a", "none", "b", "b"]


@pytest.fixture
def states():
    g = torch.Generator().manual_seed(0)
    observed = torch.ones(2, PARCELS, dtype=torch.bool)
    observed[1, 2] = False
    tokens = torch.randn(2, PARCELS, 4, 8, generator=g) + torch.randn(PARCELS, 1, 8, generator=g)
    signal, completed = torch.randn(2, 2, PARCELS, FRAMES, generator=g)
    shown = observed[:, :, None]
    return WindowStates(
        signal * shown, observed, torch.randn(2, 8, generator=g), tokens * shown[..., None], completed * shown
    )


def pairs(matrix):
    return np.array([matrix[p, q] for p in range(PARCELS) for q in range(p)])


def naive_z(values):
    """Fisher's z of numpy's correlation of rows; 0 with a constant row."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.arctanh(np.clip(np.nan_to_num(np.corrcoef(values)), -0.999999, 0.999999))


def test_connectivity_is_numpys(states):
    for embedding, signal in ((Connectivity(), states.signal_BPT), (CompletedConnectivity(), states.completed_BPT)):
        found = embedding.of(states)
        for b in range(2):
            np.testing.assert_allclose(found[b], pairs(naive_z(signal[b].numpy())), atol=1e-5)


def test_gram_is_the_correlation_of_tokens_about_their_parcels_mean(states):
    found = Gram().of(states)
    for b in range(2):
        apart = states.tokens_BPND[b] - states.tokens_BPND[b].mean(1, keepdim=True)
        unit = apart.flatten(1) / apart.flatten(1).norm(dim=1, keepdim=True).clamp(min=1e-12)
        cosine = (unit @ unit.T).numpy().clip(-0.999999, 0.999999)
        np.testing.assert_allclose(found[b], pairs(np.arctanh(cosine)), atol=1e-5)


def test_covariance_is_the_correlation_that_gram_is_fishers_z_of_and_its_mean_over_windows_is_one(states):
    found = Covariance().of(states)
    torch.testing.assert_close(found, Gram().of(states).tanh())
    full = np.eye(PARCELS)
    full[np.tril_indices(PARCELS, -1)] = found.mean(0)
    full = full + full.T - np.eye(PARCELS)
    assert np.linalg.eigvalsh(full).min() > -1e-6


def test_gram_does_not_know_where_parcels_lie(states):
    moved = WindowStates(
        states.signal_BPT,
        states.observed_BP,
        states.cls_BD,
        (states.tokens_BPND + 7 * torch.randn(1, PARCELS, 1, 8)) * states.observed_BP[:, :, None, None],
    )
    torch.testing.assert_close(Gram().of(moved), Gram().of(states), rtol=1e-4, atol=1e-5)


def test_network_gram_is_the_mean_of_gram_over_observed_pairs_of_parcels(states):
    found, gram = NetworkGram(NETWORKS, "none").of(states), Gram().of(states)
    for b in range(2):
        full = np.zeros((PARCELS, PARCELS))
        full[np.tril_indices(PARCELS, -1)] = gram[b]
        full, expected = full + full.T, []
        for one, other in (("a", "a"), ("b", "a"), ("b", "b")):
            among = [
                full[p, q]
                for p in range(PARCELS)
                for q in range(PARCELS)
                if p != q and NETWORKS[p] == one and NETWORKS[q] == other and states.observed_BP[b, [p, q]].all()
            ]
            expected.append(np.mean(among) if among else 0)
        np.testing.assert_allclose(found[b], expected, atol=1e-5)


def test_first_order_embeddings_are_moments_of_observed_tokens(states):
    for b in range(2):
        seen = states.tokens_BPND[b][states.observed_BP[b]].flatten(0, 1)
        torch.testing.assert_close(Mean().of(states)[b], seen.mean(0))
        torch.testing.assert_close(MeanStd().of(states)[b], torch.cat([seen.mean(0), seen.std(0, correction=0)]))
    torch.testing.assert_close(Parcels().of(states), states.tokens_BPND.mean(2).flatten(1))
    torch.testing.assert_close(Cls().of(states), states.cls_BD)


def small(kind="mae"):
    torch.manual_seed(0)
    geometry = Geometry(torch.randn(PARCELS, 3) * 50, FRAMES)
    if kind == "mae_prior":
        return smoothed(PriorAutoencoder(geometry, MAEConfig(PATCH, 16, 1, 2, 16, 1, 2)).eval())
    if kind == "vae":
        return VariationalAutoencoder(geometry, VAEConfig(PATCH, 16, 4)).eval()
    if kind == "tied":
        return TiedAutoencoder(geometry, TiedConfig(PATCH, 16, 1, 2)).eval()
    return MaskedAutoencoder(geometry, MAEConfig(PATCH, 16, 1, 2, 16, 1, 2)).eval()


def smoothed(model):
    """With a prior of correlated parcels and slow frames that does not adapt to the window."""
    mixing = torch.randn(PARCELS, PARCELS, dtype=torch.float64)
    frame = torch.arange(FRAMES, dtype=torch.float64)
    model.prior.parcels_PP.copy_(mixing @ mixing.T + torch.eye(PARCELS))
    model.prior.time_TT.copy_(torch.exp(-(frame[:, None] - frame).abs() / 4))
    model.prior.mean_P.copy_(torch.randn(PARCELS))
    model.prior.noise.fill_(0.3)
    model.prior.accuracy = Accuracy(tolerance=1e-10)
    return model


def windows():
    signal = torch.randn(3, PARCELS, FRAMES, generator=torch.Generator().manual_seed(1))
    observed = torch.ones(3, PARCELS, dtype=torch.bool)
    observed[1, 4] = False
    return signal * observed[:, :, None], observed, torch.tensor([3, 5, 8])


def test_every_token_is_encoded_once_and_predicted_while_it_is_hidden():
    model, (signal, observed, key) = small(), windows()
    found = window_states(model, signal, observed, key, parts=3, needs=("completed",))
    for hidden in hidden_parts(key, observed, 4, 3):
        _, tokens = model.tokens(signal, hidden, observed)
        shown = ~hidden & observed[:, :, None]
        torch.testing.assert_close(found.tokens_BPND[shown], tokens[shown])
        predicted = model(signal, shown, observed).prediction_BPT
        inside = shown.repeat_interleave(PATCH, dim=2)
        torch.testing.assert_close(found.completed_BPT[inside], predicted[inside])
    assert (found.tokens_BPND[1, 4] == 0).all()


def test_a_completed_window_does_not_know_the_token_that_it_completes():
    model, (signal, observed, key) = small(), windows()
    signal = signal.clone()
    before = window_states(model, signal, observed, key, parts=4, needs=("completed",)).completed_BPT
    part = next(iter(hidden_parts(key, observed, 4, 4)))  # visible in the first part, so hidden when it is completed
    target = (~part & observed[:, :, None]).repeat_interleave(PATCH, dim=2)
    poisoned = signal.where(~target, 99.0)
    after = window_states(model, poisoned, observed, key, parts=4, needs=("completed",)).completed_BPT
    torch.testing.assert_close(after[target], before[target], rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["mae", "tied", "vae"])
def test_every_embedding_of_every_model_is_finite_and_a_function_of_the_window_alone(kind):
    model, (signal, observed, key) = small(kind), windows()
    needs = ("completed",) if model.has_tokens else ()
    for name, embedding in default_embeddings(NETWORKS, "none").items():
        if not set(embedding.needs) <= set(needs):
            continue
        together = embedding.of(window_states(model, signal, observed, key, 2, needs=needs))
        alone = embedding.of(window_states(model, signal[1:2], observed[1:2], key[1:2], 2, needs=needs))
        assert together.isfinite().all(), name
        torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


def naive_attention(model, signal_PT, observed_P):
    """CLS's softmax over CLS and the tokens of observed parcels, from the encoder's own queries and keys."""
    made = []

    def note(module, given, out):
        made.append(out[0].double())

    hooks = [block.attention.qkv.register_forward_hook(note) for block in model.encoder.blocks]
    model.encode(signal_PT[None], torch.zeros(1, PARCELS, 4, dtype=torch.bool), observed_P[None])
    for hook in hooks:
        hook.remove()
    places = [(p, n) for p in range(PARCELS) for n in range(4) if observed_P[p]]
    heads, width = model.config.num_heads, model.config.embed_dim // model.config.num_heads
    total = np.zeros(PARCELS)
    for qkv_LX in made:
        q_LD, k_LD, _ = (part.detach().numpy() for part in qkv_LX.chunk(3, dim=1))
        for head in range(heads):
            own = slice(head * width, (head + 1) * width)
            weights = [np.exp(q_LD[0, own] @ k_D[own] / np.sqrt(width)) for k_D in k_LD]
            for (parcel, _), weight in zip(places, weights[1:], strict=True):
                total[parcel] += weight / sum(weights) / 4
    return total / (len(made) * heads)


def test_attention_is_the_mean_of_clss_softmax_over_layers_heads_and_patches():
    torch.manual_seed(0)
    geometry = Geometry(torch.randn(PARCELS, 3) * 50, FRAMES)
    model = MaskedAutoencoder(geometry, MAEConfig(PATCH, 16, 3, 2, 16, 1, 2)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.4)
    signal, observed, key = windows()
    found = Attention().of(window_states(model, signal, observed, key, parts=3, needs=("attention",)))
    assert found.shape == (3, PARCELS)
    for b in range(3):
        np.testing.assert_allclose(found[b], naive_attention(model, signal[b], observed[b]), atol=1e-6)
    assert found[1, 4] == 0


REFUSED = {
    "no attention": (
        "vae",
        Attention(),
        2,
        "a vae has no attention from CLS to single parcels, expected a masked auto",
    ),
    "no prior": ("mae", Residual(), 2, "a mae has no prior, expected a mae_prior"),
    "completed, no part visible": (
        "mae",
        CompletedConnectivity(),
        1,
        "a mae and parts=1: all of a window is hidden",
    ),
    "completed, no tokens": ("vae", CompletedConnectivity(), 2, "got a vae and parts=2: all of a window is hidden"),
    "no part visible": ("mae_prior", Residual(), 1, "got parts=1: all tokens are hidden at once"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_model_lacks_is_refused_before_any_work(case):
    kind, embedding, parts, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        GroupMeans(small(kind), {"cls": Cls(), "lacking": embedding}, 1, parts)


def dense_expectation(prior, signal_PT, visible_PT):
    """E[window | visible] by the (P T, P T) covariance."""
    dense = np.kron(prior.parcels_PP.numpy(), prior.time_TT.numpy())
    mean, seen = np.repeat(prior.mean_P.numpy(), FRAMES), visible_PT.flatten().numpy()
    noisy = dense[seen][:, seen] + float(prior.noise) * np.eye(seen.sum())
    centred = signal_PT.flatten().double().numpy()[seen] - mean[seen]
    return (mean + dense[:, seen] @ np.linalg.solve(noisy, centred)).reshape(PARCELS, FRAMES)


def test_residual_is_the_connectivity_of_what_the_prior_does_not_expect():
    model, (signal, observed, key) = small("mae_prior"), windows()
    found = Residual().of(window_states(model, signal, observed, key, parts=3, needs=("expected",)))
    for b in range(3):
        left_PT = np.zeros((PARCELS, FRAMES))
        for hidden in hidden_parts(key, observed, 4, 3):
            visible = (hidden[b] & observed[b][:, None]).repeat_interleave(PATCH, dim=1)  # while the part is predicted
            target = (~hidden[b] & observed[b][:, None]).repeat_interleave(PATCH, dim=1).numpy()
            expected = dense_expectation(model.prior, signal[b], visible)
            left_PT[target] = (signal[b].double().numpy() - expected)[target]
        np.testing.assert_allclose(found[b], pairs(naive_z(left_PT)), atol=1e-4)


def test_what_is_expected_of_a_token_does_not_know_it():
    model, (signal, observed, key) = small("mae_prior"), windows()
    part = next(iter(hidden_parts(key, observed, 4, 3)))
    target = (~part & observed[:, :, None]).repeat_interleave(PATCH, dim=2)
    before, after = (
        window_states(model, given, observed, key, parts=3, needs=("expected",)).expected_BPT
        for given in (signal, signal.where(~target, 99.0))
    )
    torch.testing.assert_close(after[target], before[target], rtol=0, atol=0)
    assert not torch.equal(after, before)


def test_what_few_models_have_is_named_but_not_taken_by_default():
    default, named = default_embeddings(NETWORKS, "none"), named_embeddings(NETWORKS, "none")
    assert named.keys() - default.keys() == {"covariance", "attention", "residual"}


def test_a_subjects_embedding_is_the_mean_of_its_recordings():
    names, values = by_subject(np.array([[1.0], [3.0], [5.0]]), ["b", "a", "b"])
    assert names.tolist() == ["a", "b"]
    assert values.tolist() == [[3.0], [3.0]]
