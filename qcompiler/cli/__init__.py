"""The command line. Each command is a thin layer over the Python API. Heavy imports wait until needed."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

import click

from qcompiler.cli import calibrating, compare, compiling, engines, merging, report, sensitivity, showing, statistics
from qcompiler.errors import QCompilerError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(version("qcompiler-onnx"), prog_name="qcompiler")
def cli() -> None:
    """Compiles ONNX models to fast INT8 ones, and checks what came out.

    \b
    qcompiler compile model.onnx -o model.int8.onnx --data samples.npz
    qcompiler verify model.onnx model.int8.onnx --data more.npz --min-sqnr 20
    """


for topic in (compiling, calibrating, merging, statistics, compare, sensitivity, engines, report, showing):
    for command in topic.COMMANDS:
        cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command and exits: 0 done, 1 not possible or not good enough, 2 wrongly asked, 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    # A polite kill unwinds like Ctrl-C does, so that no half-written file stays behind.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        cli.main(arguments, prog_name="qcompiler", standalone_mode=False)
    except click.UsageError as error:
        _fail(_usage(error), 2)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted", 130)
    except BrokenPipeError:
        _hush()
        sys.exit(1)
    except QCompilerError as error:
        if debug:
            raise
        _fail(str(error), 1)
    except OSError as error:
        if debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}", 1)
    except MemoryError:
        if debug:
            raise
        _fail("out of memory; give fewer or smaller samples, or use a larger machine", 1)
    except Exception as error:  # a fault of ours: still one line, the traceback is for who asks for it
        if debug:
            raise
        _fail(f"internal fault ({type(error).__name__}: {error}); run again with --debug and report what it prints", 1)
    sys.exit(0)


def _usage(error: click.UsageError) -> str:
    command = error.ctx.command_path if error.ctx else "qcompiler"
    message = error.format_message().rstrip(".")
    return f"{command.removeprefix('qcompiler').strip()}: {message}; see: {command} --help".removeprefix(": ")


def _fail(message: str, code: int) -> NoReturn:
    try:
        print("qcompiler:", " ".join(message.split()), file=sys.stderr)
        sys.stdout.flush()
    except BrokenPipeError:
        _hush()
    sys.exit(code)


def _hush() -> None:
    """Nobody reads on: the interpreter's own last flush must not complain about it."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
