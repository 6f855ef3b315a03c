"""The first published BrainLM, composed from `transformers`' own Nystromformer layers: an independent reference.

Its parameters have the published names, so that a published state dict loads into it as it is.
"""

import math

import torch
from torch import nn
from transformers.models.nystromformer.configuration_nystromformer import NystromformerConfig
from transformers.models.nystromformer.modeling_nystromformer import NystromformerLayer


def layer_config(width, heads, intermediate):
    return NystromformerConfig(
        hidden_size=width, num_attention_heads=heads, intermediate_size=intermediate, hidden_act="gelu",
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.1, layer_norm_eps=1e-12, num_landmarks=64,
        segment_means_seq_len=64, conv_kernel_size=65, inv_coeff_init_option=False,
    )  # fmt: skip


class Table(nn.Module):
    def __init__(self, width):
        super().__init__()
        pe = torch.zeros(5000, width)
        position = torch.arange(5000).unsqueeze(1)
        term = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
        pe[:, 0::2] = torch.sin(position * term)
        pe[:, 1::2] = torch.cos(position * term)
        self.register_buffer("pe", pe)


class Embeddings(nn.Module):
    def __init__(self, width, patch):
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.signal_embedding_projection = nn.Linear(patch, width)
        self.xyz_embedding_projection = nn.Linear(3, width)
        self.pos_embedding = Table(width)


class Encoder(nn.Module):
    def __init__(self, config, depth):
        super().__init__()
        self.layer = nn.ModuleList(NystromformerLayer(config) for _ in range(depth))


class Vit(nn.Module):
    def __init__(self, width, config, depth, patch):
        super().__init__()
        self.embeddings = Embeddings(width, patch)
        self.encoder = Encoder(config, depth)
        self.layernorm = nn.LayerNorm(width, eps=1e-12)


class Decoder(nn.Module):
    def __init__(self, width, config, depth, patch):
        super().__init__()
        self.mask_token = nn.Parameter(torch.randn(1, 1, width))
        self.decoder_embed = nn.Linear(width, width)
        self.decoder_layers = nn.ModuleList(NystromformerLayer(config) for _ in range(depth))
        self.decoder_norm = nn.LayerNorm(width, eps=1e-12)
        self.decoder_pred = nn.Linear(width, 768)
        self.decoder_xyz_projection = nn.Linear(3, width)
        self.pos_embedding = Table(width)
        self.decoder_pred1 = nn.Linear(width, width // 2)
        self.decoder_pred2 = nn.Linear(width // 2, patch)


class ReferenceBrainLM(nn.Module):
    """Signal (B, 424, 200), coordinates in mm (424, 3) and noise (B, L) to (B, 424, 200)."""

    def __init__(self, width=256, heads=4, intermediate=1024, depth=4, decoder_depth=2, patch=20):
        super().__init__()
        config = layer_config(width, heads, intermediate)
        self.patch = patch
        self.vit = Vit(width, config, depth, patch)
        self.decoder = Decoder(width, config, decoder_depth, patch)

    def forward(self, signal, xyz, noise, kept):
        batch, parcels, frames = signal.shape
        emb, dec = self.vit.embeddings, self.decoder
        patches = frames // self.patch
        tokens = emb.signal_embedding_projection(signal.reshape(batch, parcels, patches, self.patch))
        tokens = tokens + emb.xyz_embedding_projection(xyz)[None, :, None] + emb.pos_embedding.pe[:patches]
        tokens = tokens.reshape(batch, parcels * patches, -1)
        shuffle = torch.argsort(noise, dim=1)
        restore = torch.argsort(shuffle, dim=1)
        width = tokens.shape[-1]
        x = torch.gather(tokens, 1, shuffle[:, :kept, None].repeat(1, 1, width))
        x = torch.cat([emb.cls_token.expand(batch, -1, -1), x], dim=1)
        for layer in self.vit.encoder.layer:
            x = layer(x)[0]
        latent = self.vit.layernorm(x)
        x = dec.decoder_embed(latent)
        masks = dec.mask_token.repeat(batch, parcels * patches - kept, 1)
        full = torch.cat([x[:, 1:], masks], dim=1)
        full = torch.gather(full, 1, restore[:, :, None].repeat(1, 1, width))
        full = full.reshape(batch, parcels, patches, width)
        full = full + dec.decoder_xyz_projection(xyz)[None, :, None] + dec.pos_embedding.pe[:patches]
        x = torch.cat([x[:, :1], full.reshape(batch, parcels * patches, width)], dim=1)
        for layer in dec.decoder_layers:
            x = layer(x)[0]
        x = dec.decoder_pred2(nn.functional.leaky_relu(dec.decoder_pred1(dec.decoder_norm(x)), 0.1))
        return x[:, 1:].reshape(batch, parcels, frames), latent
