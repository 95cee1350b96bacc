"""How far a calibration has come, in a file that a killed run goes on from."""

from __future__ import annotations

import hashlib
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qcompiler import ir
from qcompiler.calibrate.keys import compare_keys
from qcompiler.calibrate.statistics import Statistics
from qcompiler.errors import StatisticsError

_MAGIC = b"qcompiler-checkpoint-1\n"


@dataclass(frozen=True)
class Checkpoint:
    """``statistics`` of every sample of the shard that comes before ``next_sample``, a place in the whole data set."""

    statistics: Statistics
    next_sample: int

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the file, complete or not at all. Raises OutputError."""
        body = io.BytesIO()
        body.write(json.dumps({"next_sample": self.next_sample}).encode() + b"\n")
        self.statistics.write(body, compress=False)
        content = body.getvalue()
        with ir.written_beside(path) as file:
            file.write(_MAGIC + hashlib.sha256(content).digest())
            file.write(content)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Checkpoint:
        """Raises StatisticsError: the file is missing or is not, to the last bit, what ``save`` wrote."""
        where, fix = str(path), "remove it and calibrate without --resume"
        try:
            whole = Path(path).read_bytes()
        except FileNotFoundError:
            raise StatisticsError("no such file", where=where, fix="calibrate without --resume") from None
        except OSError as error:
            raise StatisticsError("cannot be read", where=where, why=error.strerror or str(error)) from None
        start = len(_MAGIC) + hashlib.sha256().digest_size
        content = whole[start:]
        if not whole.startswith(_MAGIC):
            why = "of another version" if whole.startswith(_MAGIC.partition(b"-1")[0]) else "it begins differently"
            raise StatisticsError("is no checkpoint", where=where, why=why, fix=fix)
        if hashlib.sha256(content).digest() != whole[len(_MAGIC) : start]:
            raise StatisticsError("is damaged", where=where, why="its checksum does not hold", fix=fix)
        line, _, rest = content.partition(b"\n")
        said: dict[str, Any] = json.loads(line)
        return Checkpoint(Statistics.read(io.BytesIO(rest), where), int(said["next_sample"]))

    def check(self, wanted: Statistics, where: str) -> None:
        """Raises StatisticsError, naming the difference, unless this is of a run that would make ``wanted`` but for
        what was counted: of the same model, tensors, shard and options."""
        fix = "calibrate with the same options, or without --resume"
        mine = self.statistics
        compare_keys(mine.model_key, wanted.model_key, "is of another model", where, fix=fix)
        why = mine.difference(wanted)
        if mine.shard != wanted.shard:
            why = "it is of shard {} of {}, not {} of {}".format(*mine.shard, *wanted.shard)
        elif differing := sorted(mine.tensors.keys() ^ wanted.tensors.keys()):
            why = f"only one of the two observes tensor '{differing[0]}'"
        if why:
            raise StatisticsError("is of another calibration", where=where, why=why, fix=fix)
