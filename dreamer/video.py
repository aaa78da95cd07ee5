"""Videos of episodes and of predictions, as MP4 or GIF."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dreamer import run_folder

VIDEO_SUFFIXES = (".mp4", ".gif")
ZOOM = 4  # pixels of a video per pixel of a picture, each way


def enlarged(frames: np.ndarray) -> np.ndarray:
    """Frames [T, height, width, 3] with every pixel ZOOM x ZOOM."""
    return frames.repeat(ZOOM, axis=1).repeat(ZOOM, axis=2)


def write_video(path: Path, frames: np.ndarray, fps: int) -> None:
    """Writes frames uint8 [T, height, width, 3] (sides even) as MP4 or GIF, whole or not at all."""
    with run_folder.replacing(path) as partial:
        {".mp4": _write_mp4, ".gif": _write_gif}[path.suffix.lower()](partial, frames, fps)


def _write_mp4(path: Path, frames: np.ndarray, fps: int) -> None:
    import imageio_ffmpeg

    height, width = frames.shape[1:3]
    writer = imageio_ffmpeg.write_frames(
        str(path), (width, height), fps=fps, quality=8, macro_block_size=2
    )
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()


def _write_gif(path: Path, frames: np.ndarray, fps: int) -> None:
    from PIL import Image

    first, *rest = (Image.fromarray(frame) for frame in frames)
    first.save(path, save_all=True, append_images=rest, duration=1000 // fps, loop=0)
