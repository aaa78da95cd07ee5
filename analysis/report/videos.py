"""Open-loop predictions as small videos: truth, model and error, with their names above them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageDraw

from analysis.draw.images import ROW_NAMES, error_image

ZOOM = 3  # each pixel becomes ZOOM x ZOOM: VP9 stores colours at half of the resolution
HEAD = 24  # pixels for the names
FRAMES_PER_SECOND = 12
CRF = 37  # VP9's quality: 0 best, 63 worst


def frames(truth: np.ndarray, model: np.ndarray, context: int) -> np.ndarray:
    """truth, model uint8 [T, H, W, 3] -> uint8 [T, HEAD + 3 H, 9 W, 3], a frame per image."""
    shown = [
        _frame(t, m, number, context)
        for number, (t, m) in enumerate(zip(truth, model, strict=True))
    ]
    return np.stack(shown)


def _frame(truth: np.ndarray, model: np.ndarray, number: int, context: int) -> np.ndarray:
    seen = number < context
    state = "sees the image" if seen else f"{number - context + 1} ahead"
    wide = np.concatenate([truth, model, error_image(truth, model)], axis=1)
    canvas = Image.new("RGB", (wide.shape[1] * ZOOM, HEAD + wide.shape[0] * ZOOM), "white")
    canvas.paste(Image.fromarray(wide.repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)), (0, HEAD))
    draw = ImageDraw.Draw(canvas)
    column = canvas.width // len(ROW_NAMES)
    for place, name in enumerate(ROW_NAMES):
        words = f"{name}: {state}" if name == "Model" else name
        colour = (160, 70, 0) if seen and name == "Model" else (30, 30, 30)
        draw.text((place * column + 6, HEAD // 2), words, fill=colour, anchor="lm", font_size=15)
    return np.asarray(canvas)


def webm(truth: np.ndarray, model: np.ndarray, context: int) -> bytes:
    """The video as WebM (VP9), which every current browser plays."""
    shown = frames(truth, model, context)
    height, width = shown.shape[1:3]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prediction.webm"
        writer = imageio_ffmpeg.write_frames(
            str(path), (width, height), fps=FRAMES_PER_SECOND, codec="libvpx-vp9", quality=None,
            bitrate="0", macro_block_size=2, ffmpeg_log_level="error",
            output_params=["-crf", str(CRF), "-deadline", "realtime", "-cpu-used", "6"],
        )  # fmt: skip
        writer.send(None)
        for frame in shown:
            writer.send(np.ascontiguousarray(frame))
        writer.close()
        return path.read_bytes()
