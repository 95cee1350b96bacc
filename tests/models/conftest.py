"""Recipes and tools are no part of the installed compiler: they are imported from the repository's root."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]
