"""For all tests: one thread each, and stand-ins for packages that are not on PyPI.

Tests train in several processes side by side; with more threads than cores that takes many times
longer. And results are equal bit for bit only with the same number of threads.
"""

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent / "stand_ins"))  # at the end: the real ones go first
os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; inherited by subprocesses
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws without a screen
