"""One error tree. Every error says what went wrong, where, why, and what to do, on one line."""

from __future__ import annotations


class QCompilerError(Exception):
    """Base of every error that the compiler raises on purpose.

    ``what`` is the fault, ``where`` the file, node or tensor, ``why`` the cause, ``fix`` what the user can do.
    """

    def __init__(self, what: str, *, where: str = "", why: str = "", fix: str = "") -> None:
        self.what, self.where, self.why, self.fix = (_one_line(part) for part in (what, where, why, fix))
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        if self.why:
            text += f" ({self.why})"
        if self.fix:
            text += f"; {self.fix}"
        return text


class ModelError(QCompilerError):
    """The model file or object cannot be read, or breaks ONNX's rules."""


class DataError(QCompilerError):
    """Calibration or evaluation samples do not fit the model."""


class StatisticsError(QCompilerError):
    """A statistics file is damaged or belongs to another model."""


class RecipeError(QCompilerError):
    """The user's own choices name something that does not exist or contradict each other."""


class PlanError(QCompilerError):
    """A plan is damaged, or does not fit the graph it is applied to."""


class TargetError(QCompilerError):
    """A target description is missing or malformed, or cannot do what was asked."""


class PassError(QCompilerError):
    """A pass failed, is unknown, or was given an option that it does not have."""


class VerificationError(QCompilerError):
    """A result does not hold: structure, numbers, or a bound that the user gave."""


class ReportError(QCompilerError):
    """A report is damaged, of another version, or no report."""


class MetricError(QCompilerError):
    """A metric failed, or has nothing to say about this model."""


class WorkerError(QCompilerError):
    """A process or a machine that was to do part of the work was lost, or cannot be reached."""


class OutputError(QCompilerError):
    """The result could not be written."""


class DependencyError(QCompilerError):
    """An optional package or the native library is needed and is not there."""


def _one_line(text: str) -> str:
    return " ".join(str(text).split())
