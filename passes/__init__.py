"""The built-in passes, one transformation a file. Installed as `qcompiler.passes`."""

from __future__ import annotations

if __name__ != "qcompiler.passes":
    # From the root of the repository `import passes` would find this folder too, and load every pass a second time.
    raise ImportError(f"the passes are imported as qcompiler.passes, not as {__name__}")
