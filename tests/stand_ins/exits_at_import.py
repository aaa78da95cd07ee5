"""A script that someone uses as a module of environments: it exits when it is imported."""

import sys

sys.exit(1)
