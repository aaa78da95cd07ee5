"""For all tests: one thread each, and stand-ins for packages that are not on PyPI.

Tests run training in several processes side by side; threads that wait for a core that another one
holds make that many times slower. And bit for bit equality holds for one number of threads only.
"""

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent / "stand_ins"))  # at the end: the real ones go first
os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; inherited by subprocesses
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws without a screen
