"""Does the test against the released code notice a coefficient that is 1 % off?

    python tests/mutate_update.py

For each coefficient in turn a copy of the package is made with it changed by 1 %, and
test_released_update.py runs on the copy in double precision. Prints a table of what noticed it.
Exits with 1 if something went unnoticed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Coefficient -> (file, what stands there once, what it becomes).
MUTATIONS = {
    "KL scale": ("world_model", "config.kl_scale * ", "1.01 * config.kl_scale * "),
    "free nats": ("world_model", "clamp(min=free_nats),", "clamp(min=1.01 * free_nats),"),
    "1/2 of the image loss": ("world_model", "0.5 * F.mse_loss(full", "0.505 * F.mse_loss(full"),
    "1/2 of the reward loss": ("world_model", "0.5 * F.mse_loss(pred", "0.505 * F.mse_loss(pred"),
    "discount scale": ("world_model", "config.discount_scale * loss", "1.01 * {}"),
    "gamma in the discount head's target": ("world_model", "config.discount * (", "0.99 * {}"),
    "gamma in returns": ("world_model", "self.config.discount)", "0.99 * {}"),
    "tanh of rewards": ("world_model", "torch.tanh}", "lambda reward: torch.tanh(1.01 * reward)}"),
    "1/255 of pixels": ("networks", "mul_(1 / 255)", "mul_(1.01 / 255)"),
    "least std of states": ("rssm", "MIN_STD = 0.1", "MIN_STD = 0.101"),
    "lambda": ("behaviour", "self.config.return_lambda", "0.99 * {}"),
    "1/2 of the value loss": ("behaviour", "0.5 * (weight", "0.505 * (weight"),
    "scale of the actor's mean": ("networks", "MEAN_SCALE = 5.0", "MEAN_SCALE = 5.05"),
    "std of a new actor": ("networks", "math.expm1(init_std)", "math.expm1(1.01 * init_std)"),
    "biases of layers": (
        "networks",
        "(x, self.weight, self.bias)",
        "(x, self.weight, None if self.bias is None else 1.01 * self.bias)",
    ),
    "learning rates": ("agent", "lr=rate", "lr=1.01 * rate"),
    "Adam's epsilon": ("agent", "eps=epsilon", "eps=1.01 * epsilon"),
    "norm of clipping": ("agent", "self.config.gradient_clip_norm", "1.01 * {}"),
}  # fmt: skip


def noticed_by(name: str, old: str, new: str) -> list[str]:
    """Names of the tests that fail when `old` in file `name` is replaced by `new`."""
    with tempfile.TemporaryDirectory() as folder:
        for part in ("dreamer", "tests", "pyproject.toml"):
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copy(ROOT / part, Path(folder) / part)
        path = Path(folder) / "dreamer" / f"{name}.py"
        text = path.read_text(encoding="utf-8")
        if text.count(old) != 1:
            raise SystemExit(f"error: {old!r} stands {text.count(old)} times in {path.name}")
        path.write_text(text.replace(old, new.replace("{}", old)), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "float64"]
        done = subprocess.run(
            [*command, "tests/dreamer/test_released_update.py"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": folder},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode not in (0, 1):
            raise SystemExit(done.stdout + done.stderr)
    found = re.findall(r"^FAILED \S+::test_(\w+)\[", done.stdout, re.MULTILINE)
    return list(dict.fromkeys(found))


def main() -> int:
    unnoticed = 0
    print("| changed by 1 % | noticed by |\n| --- | --- |")
    for coefficient, (name, old, new) in MUTATIONS.items():
        tests = noticed_by(name, old, new)
        unnoticed += not tests
        print(f"| {coefficient} | {', '.join(tests) or '**nothing**'} |", flush=True)
    return int(unnoticed > 0)


if __name__ == "__main__":
    sys.exit(main())
