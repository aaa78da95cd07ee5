"""The world model and its losses; what it learns its states from is the representation variant."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamer.config import Config
from dreamer.distributions import Normal, normal_kl
from dreamer.networks import Decoder, Dense, Encoder, full_precision, to_float
from dreamer.replay import Batch
from dreamer.rssm import RSSM, Observed, State
from dreamer.variants import load_class, representation_card

KL_CLIPS = {  # kl [B, L], free nats -> loss
    "average": lambda kl, free_nats: kl.mean().clamp(min=free_nats),  # released TF2 code
    "per_step": lambda kl, free_nats: kl.clamp(min=free_nats).mean(),  # PlaNet, TF1 code
}
REWARD_TRANSFORMS = {"none": lambda reward: reward, "tanh": torch.tanh}


class ModelLosses(NamedTuple):
    total: Tensor  # what the world model minimises
    probe: Tensor | None  # what a probe decoder minimises; no gradient into the model
    parts: dict[str, Tensor]  # named losses and quantities worth watching
    states: State  # [B, L, ...] posterior states, detached: imagination starts here


class Seen(NamedTuple):
    """A batch and what the model computed from it."""

    image: Tensor  # [B, L, 64, 64, 3], float
    embed: Tensor  # [B, L, E]
    action: Tensor  # [B, L, A] that led to the image
    observed: Observed  # posterior states, and the beliefs they were drawn from
    feature: Tensor  # [B, L, S + D] of the posterior states


class Representation(nn.Module):
    """A way to learn states, made from (config, A). Each has a card in variants.py."""

    decoder: Decoder | None  # that the representation learns itself

    def __init__(self) -> None:
        super().__init__()
        self.decoder = None

    def forward(self, seen: Seen) -> dict[str, Tensor]:
        """Named losses of a batch, added to those of the reward and the KL."""
        raise NotImplementedError


class Reconstruction(Representation):
    """Images are reconstructed from states (Eq. 10); the decoder also makes the videos."""

    def __init__(self, config: Config, action_size: int):
        super().__init__()
        self.decoder = Decoder(config.feature_size, config.conv_depth)

    def forward(self, seen: Seen) -> dict[str, Tensor]:
        assert self.decoder is not None
        return {"image_loss": image_loss(self.decoder(seen.feature), seen.image)}


class Contrastive(Representation):
    """Each state has to identify its own image among those of the batch (Eq. 12).

    A state model q(s | o), a Normal over the feature with learned std, is a dense network on the
    image's embedding. Negatives o' are all B * L images of the batch, the positive among them.
    Gradients flow into the states and the embeddings.
    """

    MIN_STD = 0.1

    def __init__(self, config: Config, action_size: int):
        super().__init__()
        self.state_model = Dense(config.embed_size, 2 * config.feature_size, config.dense_units, 2)

    def forward(self, seen: Seen) -> dict[str, Tensor]:
        mean, std = self.state_model(seen.embed.flatten(0, 1)).chunk(2, -1)
        belief = Normal(mean, F.softplus(std) + self.MIN_STD)
        information = information_bound(belief, seen.feature.flatten(0, 1))
        return {"contrastive_loss": -information}


class RewardOnly(Representation):
    """States are learned from rewards (and the KL) alone."""

    def __init__(self, config: Config, action_size: int):
        super().__init__()

    def forward(self, seen: Seen) -> dict[str, Tensor]:
        return {}


class WorldModel(nn.Module):
    """Encoder, RSSM, reward head, and by configuration a discount head and a probe decoder."""

    def __init__(self, config: Config, action_size: int):
        super().__init__()
        self.config = config
        size, units = config.feature_size, config.dense_units
        self.encoder = Encoder(config.conv_depth)
        self.rssm = RSSM(config, action_size)
        self.reward_head = Dense(size, 1, units, config.reward_layers)
        self.discount_head = (
            Dense(size, 1, units, config.discount_layers) if config.discount_head else None
        )
        card = representation_card(config.representation)
        self.representation: Representation = load_class(card)(config, action_size)
        needs_probe = self.representation.decoder is None and config.probe_decoder
        self.probe = Decoder(size, config.conv_depth) if needs_probe else None

    @property
    def decoder(self) -> Decoder | None:
        """The decoder that makes videos: the representation's own, or the probe, or none."""
        return self.representation.decoder or self.probe

    def model_parameters(self) -> list[nn.Parameter]:
        """All parameters but the probe's, which have an optimiser of their own."""
        return [p for name, p in self.named_parameters() if not name.startswith("probe.")]

    def observe(self, image: Tensor, action: Tensor, noise: Tensor) -> tuple[Tensor, Observed]:
        """Embeddings [B, L, E] and filtered states of a batch; `image` is float."""
        embed = self.encoder(image)
        return embed, self.rssm.observe(embed, action, noise)

    def reward(self, feature: Tensor) -> Tensor:
        """Expected reward [...] on arriving at a state [..., D + S]."""
        return self.reward_head(feature).squeeze(-1)

    def discount(self, feature: Tensor) -> Tensor:
        """gamma times the probability that the episode goes on; gamma where no end is predicted."""
        if self.discount_head is None:
            return torch.full_like(feature[..., 0], self.config.discount)
        return torch.sigmoid(self.discount_head(feature).squeeze(-1))

    def losses(self, batch: Batch, noise: Tensor) -> ModelLosses:
        """Losses on a batch; `noise` [B, L, S] draws the posterior states."""
        config = self.config
        image = to_float(batch.image, batch.reward.dtype)
        embed, observed = self.observe(image, batch.action, noise)
        feature = observed.states.feature
        kl = normal_kl(observed.posterior, observed.prior)
        parts: dict[str, Tensor] = self.representation(
            Seen(image, embed, batch.action, observed, feature)
        )
        target = REWARD_TRANSFORMS[config.reward_transform](batch.reward)
        parts["reward_loss"] = unit_normal_loss(self.reward(feature), target)
        parts["kl_loss"] = config.kl_scale * KL_CLIPS[config.kl_clip](kl, config.free_nats)
        if self.discount_head is not None:
            logit = self.discount_head(feature).squeeze(-1)
            goes_on = config.discount * (1 - batch.terminal)
            loss = F.binary_cross_entropy_with_logits(logit, goes_on)
            parts["discount_loss"] = config.discount_scale * loss
        total = torch.stack(list(parts.values())).sum()
        probe = None if self.probe is None else image_loss(self.probe(feature.detach()), image)
        with torch.no_grad():
            watched = {
                "kl": kl.mean(),
                "prior_entropy": normal_entropy(observed.prior),
                "posterior_entropy": normal_entropy(observed.posterior),
                "state_variance": variance(feature),
                "embed_variance": variance(embed),  # 0: the encoder is dead, the model blind
            }
        if probe is not None:
            watched["probe_loss"] = probe
        return ModelLosses(
            total, probe, {"model_loss": total, **parts, **watched}, observed.states.detach()
        )


def unit_normal_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean of -ln Normal(target; prediction, 1), up to the constant ln sqrt(2 pi)."""
    return 0.5 * F.mse_loss(prediction, target)


def image_loss(prediction: Tensor, image: Tensor) -> Tensor:
    """`unit_normal_loss` summed over pixels and averaged over B and L; both [B, L, 64, 64, 3]."""
    frames = image.shape[0] * image.shape[1]
    return 0.5 * F.mse_loss(full_precision(prediction), image, reduction="sum") / frames


def information_bound(belief: Normal, feature: Tensor) -> Tensor:
    """A lower bound on the mutual information of states and images, in nats (InfoNCE, Eq. 12).

    mean_i [ln q(s_i | o_i) - ln 1/N sum_j q(s_i | o_j)], from q(s | o_j) [N, X] and states
    `feature` [N, X]; at most ln N. Eq. 12 without the constant ln N has the same gradient.
    """
    precision = belief.std.pow(-2)
    # -1/2 ((s - mean) / std)^2 for all pairs, as matrix products: [states N, images N]. Their
    # difference needs single precision.
    with torch.autocast(feature.device.type, enabled=False):
        squares = feature.square() @ precision.T - 2 * feature @ (belief.mean * precision).T
    squares = squares + (belief.mean.square() * precision).sum(-1)
    score = -0.5 * squares - belief.std.log().sum(-1)
    return (score.diagonal() - score.logsumexp(1)).mean() + math.log(len(feature))


def variance(x: Tensor) -> Tensor:
    """Mean over the last axis of the variance over all others."""
    return full_precision(x).flatten(0, -2).var(0, correction=0).mean()


def normal_entropy(belief: Normal) -> Tensor:
    """Mean entropy in nats, summed over the last axis."""
    constant = 0.5 * math.log(2 * math.pi * math.e)
    return (belief.std.log() + constant).sum(-1).mean()
