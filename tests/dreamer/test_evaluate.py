"""Scores and videos from checkpoints: true, repeatable, and also while the run goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image
from toy_runs import minute

from dreamer import evaluate
from dreamer.checkpoint import checkpoint_paths
from dreamer.envs.environment import make_environment
from dreamer.evaluate import main
from dreamer.seeding import stream_seed
from dreamer.train import train

BRIEF = dict(
    env_steps=160,
    first_updates=3,
    updates_per_1000_env_steps=25,
    eval_every_env_steps=1000,
    eval_episodes=1,
    checkpoint_every_env_steps=40,
    batch_size=2,
)


def trained(run_dir: Path, **overrides) -> Path:
    train(minute(**{**BRIEF, **overrides}), run_dir)
    return run_dir


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def run_dir(finished: Path, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    return shutil.copytree(finished, tmp_path / "run")


def measure(capsys, *arguments: object) -> dict:
    assert main([*map(str, arguments), "--format", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_scores_are_those_of_the_episodes(capsys, finished: Path) -> None:
    result = measure(capsys, finished, "--episodes", 4)
    assert result["task"] == "toy_dot" and result["env_steps"] == 160 and result["episodes"] == 4
    assert len(set(result["returns"])) == 4 and all(0 < r < 40 for r in result["returns"])
    assert result["lengths_agent_steps"] == [20] * 4
    assert result["mean"] == pytest.approx(np.mean(result["returns"]))
    deviations = np.array(result["returns"]) - result["mean"]
    assert result["sd"] == pytest.approx(((deviations**2).sum() / 3) ** 0.5)
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    trained_on = [x["episode_return"] for x in lines if x["kind"] == "episode"]
    assert not set(trained_on) & set(result["returns"])  # other episodes than training's


def test_a_known_score(capsys, tmp_path: Path) -> None:
    """The probe's reward after n env_steps is n / 1024."""
    trained(tmp_path, task="probe")
    result = measure(capsys, tmp_path, "--episodes", 1)
    assert result["returns"] == [820 / 1024] and result["sd"] is None


def test_the_same_seed_gives_the_same_scores(capsys, finished: Path) -> None:
    one, again, other = (
        measure(capsys, finished, "--episodes", 3, "--seed", seed)["returns"] for seed in (5, 5, 6)
    )
    assert one == again
    assert not set(one) & set(other)


def test_text_says_the_same(capsys, finished: Path) -> None:
    result = measure(capsys, finished, "--episodes", 3)
    assert main([str(finished), "--episodes", "3"]) == 0
    text = capsys.readouterr().out
    assert f"mean {result['mean']:.1f}, SD {result['sd']:.1f}" in text
    assert "each: " + " ".join(f"{r:.1f}" for r in result["returns"]) in text


def test_a_run_is_only_read(capsys, finished: Path) -> None:
    def files() -> dict:
        return {p: p.stat().st_mtime_ns for p in finished.rglob("*")}

    before = files()
    measure(capsys, finished, "--episodes", 1)
    assert files() == before


# Which checkpoint.


def test_the_newest_checkpoint_or_the_one_that_is_named(capsys, finished: Path) -> None:
    older, newest = checkpoint_paths(finished / "checkpoints")
    assert measure(capsys, finished, "--episodes", 1)["checkpoint"] == str(newest)
    named = measure(capsys, finished, "--episodes", 1, "--checkpoint", older)
    assert named["checkpoint"] == str(older) != str(newest)
    assert named["env_steps"] == int(older.name.split("-")[1])


def test_a_checkpoint_may_vanish_after_it_was_listed(capsys, run_dir: Path, monkeypatch) -> None:
    """As when a run goes on: listed, then removed before it is read; each time the newest."""
    older, newest = checkpoint_paths(run_dir / "checkpoints")

    def listed(folder: Path) -> list[Path]:
        paths = checkpoint_paths(folder)
        newest.unlink(missing_ok=True)
        return paths

    monkeypatch.setattr(evaluate, "checkpoint_paths", listed)
    assert measure(capsys, run_dir, "--episodes", 1)["checkpoint"] == str(older)


def test_when_all_vanish_they_are_listed_again(capsys, run_dir: Path, monkeypatch) -> None:
    newest = checkpoint_paths(run_dir / "checkpoints")[-1]
    listings = iter([[newest.with_name("checkpoint-gone.pt")], [newest]])
    monkeypatch.setattr(evaluate, "checkpoint_paths", lambda folder: next(listings))
    assert measure(capsys, run_dir, "--episodes", 1)["checkpoint"] == str(newest)


def test_a_damaged_newest_falls_back_and_says_so(capsys, run_dir: Path) -> None:
    older, newest = checkpoint_paths(run_dir / "checkpoints")
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="damaged .* falling back"):
        result = measure(capsys, run_dir, "--episodes", 1)
    assert result["checkpoint"] == str(older)


# Videos.


def first_picture(seed: int = 0) -> np.ndarray:
    environment = make_environment(minute(**BRIEF))
    return environment.reset(stream_seed(seed, "score", 0)).image


def frames_of(path: Path, fps: int) -> np.ndarray:
    """[T, height, width, 3]; a GIF holds equal frames once, and shows them longer."""
    if path.suffix == ".gif":
        with Image.open(path) as gif:
            frames = []
            for number in range(gif.n_frames):
                gif.seek(number)
                times = round(gif.info["duration"] * fps / 1000)
                frames += [np.asarray(gif.convert("RGB"))] * times
        return np.stack(frames)
    reader = imageio_ffmpeg.read_frames(str(path))
    width, height = next(reader)["size"]
    return np.stack([np.frombuffer(x, np.uint8).reshape(height, width, 3) for x in reader])


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_videos_show_what_was_seen(capsys, finished: Path, tmp_path: Path, suffix: str) -> None:
    video, prediction = tmp_path / f"video{suffix}", tmp_path / f"prediction{suffix}"
    arguments = ["--episodes", 1, "--video", video, "--prediction", prediction]
    result = measure(capsys, finished, *arguments)
    assert result["video"] == str(video) and result["prediction"] == str(prediction)
    assert {p.name for p in tmp_path.iterdir()} == {video.name, prediction.name}

    played = frames_of(video, 25)
    assert played.shape == (21, 256, 256, 3)  # 40 env_steps at action repeat 2, and the reset
    large = first_picture().repeat(4, 0).repeat(4, 1).astype(int)
    assert np.abs(played[0] - large).mean() < 6  # upright, in its colours
    assert np.abs(played[0] - large[::-1]).mean() > 12
    assert np.abs(played[0] - large[..., ::-1]).mean() > 12
    assert np.any(played[-1] != played[0])

    predicted = frames_of(prediction, 10)
    assert predicted.shape == (21, 32 + 256, 3 * 256 + 2 * 8, 3)
    assert np.abs(predicted[0, 32:, :256] - large).mean() < 6
    truth, model, error = (predicted[3, 32:, left : left + 256] for left in (0, 264, 528))
    expected = (model.astype(int) - truth + 255) / 2
    assert np.abs(error - expected).mean() < 6
    assert predicted[:, :32].max() > 150  # titles


# Mistakes.


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["empty"], "no checkpoint to load (there is none yet)"),
        (["run", "--episodes", "0"], "--episodes: at least 1"),
        (["run", "--seed", "-1"], "--seed: at least 0"),
        (["run", "--video", "a.avi"], "should end in .mp4 or .gif"),
        (["run", "--video", "no/a.gif"], "no folder no"),
        (["run", "--checkpoint", "gone.pt"], "--checkpoint: gone.pt: No such file"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    capsys, run_dir: Path, monkeypatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(run_dir.parent)
    Path("empty").mkdir()
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and said in err and err.count("\n") == 1


def test_a_prediction_needs_a_decoder(capsys, tmp_path: Path) -> None:
    trained(tmp_path / "run", representation="reward", probe_decoder=False)
    gif = tmp_path / "prediction.gif"
    assert main([str(tmp_path / "run"), "--episodes", "1", "--prediction", str(gif)]) == 2
    assert "no decoder" in capsys.readouterr().err and not gif.exists()
