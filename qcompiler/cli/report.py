"""report: what a compilation did, as one HTML page."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import click

from qcompiler.cli import options as shared
from qcompiler.errors import OutputError

if TYPE_CHECKING:
    from qcompiler.report import Report

PAGES = (".html", ".htm")


class Price(click.ParamType):
    """A finite number that is not negative."""

    name = "price"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            price = float(str(value))
        except ValueError:
            price = math.nan
        if not 0.0 <= price < math.inf:
            self.fail(f"'{value}' is not a price: give a number such as 0.04", param, ctx)
        return price


@click.command("report")
@click.argument("file", metavar="REPORT.json")
@click.option("-o", "--output", metavar="FILE.html", help="Where the page goes.")
@click.option("--price-per-hour", type=Price(), metavar="X",
              help="What an hour of one core costs, in any currency: a machine's price over its cores.")  # fmt: skip
@click.option("--quiet", is_flag=True, help="Print errors only.")
@shared.debug_option
def report_command(file: str, output: str | None, price_per_hour: float | None, quiet: bool, debug: bool) -> None:
    """Make one HTML page of REPORT.json, which compile --report wrote. It needs no network and no other file."""
    if output is None:
        raise click.UsageError("say where the page goes: -o FILE.html", click.get_current_context())
    if not is_page(output):
        raise OutputError("is no HTML page", where=output, fix="name it FILE.html")
    shared.check_outputs([output], [file])

    from qcompiler.report.reading import load_report

    write(load_report(file), output, price_per_hour)
    if not quiet:
        shared.console().print(f"wrote {output}", markup=False)


def is_page(path: str) -> bool:
    return path.lower().endswith(PAGES)


def write(report: Report, path: str, price_per_hour: float | None = None) -> None:
    """The report, as a page where the file's name ends as one's does, else as JSON. Raises OutputError."""
    from qcompiler.ir import written_beside

    text = report.to_html(price_per_hour) if is_page(path) else report.to_json()
    with written_beside(path) as file:
        file.write(text.encode(errors="replace"))  # names may hold half a surrogate pair


COMMANDS = (report_command,)
