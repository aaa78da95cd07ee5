"""For all tests: stand-ins for packages that cannot be installed from PyPI can be imported."""

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent / "stand_ins"))  # at the end: the real ones go first
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws without a screen
