"""The whole update of Dreamer on one page, as the paper writes it (Algorithm 1, lines 4 to 14).

One step, one image, one product after another: nothing is shared, hoisted or fused. The agent's
losses and gradients are compared with these (test_fast_paths.py). Reconstruction, continuous
actions, the online value network, `actor_gradient: half`, KL scale 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamer.agent import Agent, UpdateNoise
from dreamer.distributions import Normal, normal_kl
from dreamer.networks import Actor
from dreamer.replay import Batch
from dreamer.rssm import RSSM, State


def losses(agent: Agent, batch: Batch, noise: UpdateNoise) -> dict[str, Tensor]:
    """Group -> the loss that its parameters minimise."""
    model, states = world_model(agent, batch, noise.posterior)
    actor, value = behaviour(agent, states, noise.imagination.stoch, noise.imagination.action)
    return {"model": model, "actor": actor, "value": value}


def world_model(agent: Agent, batch: Batch, noise: Tensor) -> tuple[Tensor, State]:
    """Eq. 10 and the posterior states [B * L, ...], from `noise` [B, L, S]."""
    config, model = agent.config, agent.model
    rssm = model.rssm
    image = batch.image.to(batch.reward.dtype) / 255 - 0.5
    state = rssm.initial(config.batch_size)
    steps = []
    for t in range(config.length):
        deter = recurrent(rssm, state, batch.action[:, t])
        prior = normal(linear(rssm.prior_out, F.elu(linear(rssm.prior_in, deter))))
        posterior = posterior_belief(rssm, deter, encoder(model.encoder, image[:, t]))
        state = State(deter, posterior.mean + posterior.std * noise[:, t])
        image_error = (decoder(model.decoder, state.feature) - image[:, t]).square().sum((1, 2, 3))
        reward = dense(model.reward_head, state.feature).squeeze(-1)
        reward_error = (reward - batch.reward[:, t]).square()
        steps.append((image_error / 2, reward_error / 2, normal_kl(posterior, prior), *state))
    image_loss, reward_loss, kl, deter, stoch = (
        torch.stack(x, 1) for x in zip(*steps, strict=True)
    )
    loss = image_loss.mean() + reward_loss.mean() + kl.mean().clamp(min=config.free_nats)
    return loss, State(deter.detach().flatten(0, 1), stoch.detach().flatten(0, 1))


def behaviour(
    agent: Agent, state: State, state_noise: Tensor, action_noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Losses of actor (Eq. 7) and value (Eq. 8) from `state` [N, ...]."""
    config, rssm, heads = agent.config, agent.model.rssm, agent.behaviour
    features = []
    for t in range(config.horizon):
        action = actor_sample(heads.actor, state.feature.detach(), action_noise[t])
        deter = recurrent(rssm, state, action)
        prior = normal(linear(rssm.prior_out, F.elu(linear(rssm.prior_in, deter))))
        state = State(deter, prior.mean + prior.std * state_noise[t])
        features.append(state.feature)
    feature = torch.stack(features)
    reward = dense(agent.model.reward_head, feature).squeeze(-1)
    value = dense(heads.value, feature).squeeze(-1)

    target, targets = value[-1], []  # V_lambda (Eq. 6), backwards
    for t in reversed(range(config.horizon - 1)):
        mixed = (1 - config.return_lambda) * value[t + 1] + config.return_lambda * target
        target = reward[t] + config.discount * mixed
        targets.append(target)
    returns = torch.stack(targets[::-1])
    weight = value.new_tensor([[config.discount**t] for t in range(config.horizon - 1)])
    value = dense(heads.value, feature.detach()[:-1]).squeeze(-1)
    value_loss = (weight * (value - returns.detach()).square() / 2).mean()
    return -(weight * returns).mean(), value_loss


# The model's parts. A layer that reads two inputs is kept in two parts, one for each.


def recurrent(rssm: RSSM, prev: State, action: Tensor) -> Tensor:
    """h_t [..., D] from s_{t-1}, h_{t-1} and a_{t-1}."""
    kernel = torch.cat([rssm.stoch_in.weight, rssm.action_in.weight], 1)
    x = F.elu(torch.cat([prev.stoch, action], -1) @ kernel.T + rssm.action_in.bias)
    gru, h = rssm.gru, prev.deter
    inputs = (x @ gru.weight_ih.T + gru.bias_ih).chunk(3, -1)
    hidden = (h @ gru.weight_hh.T + gru.bias_hh).chunk(3, -1)
    reset, keep = (torch.sigmoid(inputs[i] + hidden[i]) for i in (0, 1))
    return (1 - keep) * torch.tanh(inputs[2] + reset * hidden[2]) + keep * h


def posterior_belief(rssm: RSSM, deter: Tensor, embed: Tensor) -> Normal:
    kernel = torch.cat([rssm.deter_in.weight, rssm.embed_in.weight], 1)
    x = F.elu(torch.cat([deter, embed], 1) @ kernel.T + rssm.embed_in.bias)
    return normal(linear(rssm.posterior_out, x))


def normal(raw: Tensor) -> Normal:
    mean, std = raw.chunk(2, -1)
    return Normal(mean, F.softplus(std) + 0.1)


def actor_sample(actor: Actor, feature: Tensor, noise: Tensor) -> Tensor:
    """Eq. 3; no gradient where half precision rounds the action to 1 or -1."""
    mean, std = dense(actor.network, feature).chunk(2, -1)
    std = F.softplus(std + actor.raw_init_std) + 1e-4
    action = torch.tanh(5 * torch.tanh(mean / 5) + std * noise)
    passes = (action.detach().half().abs() < 1).to(action.dtype)
    return action.detach() + passes * (action - action.detach())


def encoder(module: nn.Module, image: Tensor) -> Tensor:
    x = image.permute(0, 3, 1, 2).contiguous()
    for layer in module.layers:
        x = torch.relu(F.conv2d(x, layer.weight.contiguous(), layer.bias, stride=2))
    return x.permute(0, 2, 3, 1).flatten(1)


def decoder(module: nn.Module, feature: Tensor) -> Tensor:
    x = linear(module.inputs, feature)[:, :, None, None]
    x = F.conv_transpose2d(x, module.first.weight, module.first.bias, stride=2)
    for layer in module.layers:
        x = F.conv_transpose2d(torch.relu(x), layer.weight, layer.bias, stride=2)
    return x.permute(0, 2, 3, 1)


def dense(layers: nn.Sequential, x: Tensor) -> Tensor:
    *hidden, last = layers
    for layer in hidden:
        x = F.elu(linear(layer, x))
    return linear(last, x)


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return x @ layer.weight.T + layer.bias
