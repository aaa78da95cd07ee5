"""Open-loop predictions of an episode's beginning (Figure 5): computed, saved and drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from dreamer import run_folder
from dreamer.agent import Agent
from dreamer.replay import Episode
from dreamer.video import enlarged

PREDICTION_STEPS = 50  # of which the first are context
PREDICTION_CONTEXT = 5
PREDICTION_FPS = 10
GAP, TITLE = 8, 32  # pixels of a prediction's video, between its parts and above them


def predicted(
    agent: Agent, episode: Episode, generator: torch.Generator
) -> tuple[np.ndarray, np.ndarray] | None:
    """An episode's first pictures and what the model makes of them, uint8 [T, 64, 64, 3] each.

    The model sees the first PREDICTION_CONTEXT pictures; from then on it has the actions only.
    None if the episode ended within them, or without a decoder.
    """
    truth, action = episode.image[:PREDICTION_STEPS], episode.action[:PREDICTION_STEPS]
    if len(truth) <= PREDICTION_CONTEXT:
        return None
    model = agent.predict(truth, action, PREDICTION_CONTEXT, generator)
    return None if model is None else (truth, model)


def save_prediction(path: Path, truth: np.ndarray, model: np.ndarray, env_steps: int) -> None:
    """Replaces the prediction (.npz) in a run's folder."""
    with run_folder.replacing(path) as partial:
        np.savez_compressed(
            partial, truth=truth, model=model, context=PREDICTION_CONTEXT, env_steps=env_steps
        )


def prediction_frames(truth: np.ndarray, model: np.ndarray) -> np.ndarray:
    """truth, model uint8 [T, 64, 64, 3] -> the frames of their video, with the error, uint8."""
    return np.stack([_prediction_frame(truth, model, step) for step in range(len(truth))])


def _prediction_frame(truth: np.ndarray, model: np.ndarray, step: int) -> np.ndarray:
    from PIL import Image, ImageDraw

    error = (model[step].astype(float) - truth[step] + 255) / 2  # grey where there is none
    tiles = [enlarged(x[None])[0] for x in (truth[step], model[step], error.astype(np.uint8))]
    size = tiles[0].shape[0]
    frame = np.zeros((TITLE + size, 3 * size + 2 * GAP, 3), np.uint8)
    seen = step < PREDICTION_CONTEXT
    ahead = step - PREDICTION_CONTEXT + 1
    titles = (
        "truth",
        "model: shown the image" if seen else f"model: {ahead} ahead",
        "model - truth",
    )
    canvas = Image.fromarray(frame)
    draw = ImageDraw.Draw(canvas)
    for column, (tile, title) in enumerate(zip(tiles, titles, strict=True)):
        left = column * (size + GAP)
        canvas.paste(Image.fromarray(tile), (left, TITLE))
        draw.text((left + GAP, TITLE // 2), title, fill=(235, 235, 235), anchor="lm", font_size=18)
    return np.asarray(canvas)
