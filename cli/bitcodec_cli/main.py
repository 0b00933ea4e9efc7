"""The `bitcodec` command and its way of failing: one line on stderr, exit code 1."""

from __future__ import annotations

import sys
from typing import Any

import click

import bitcodec
from bitcodec.errors import BitcodecError
from bitcodec_cli.codecs import decode, encode, evaluate, fit
from bitcodec_cli.demo import demo
from bitcodec_cli.embedding import embed
from bitcodec_cli.harvesting import harvest
from bitcodec_cli.indexing import index
from bitcodec_cli.inspecting import info
from bitcodec_cli.naming import name
from bitcodec_cli.reporting import report
from bitcodec_cli.searching import search
from bitcodec_cli.sensing import sensitivity
from bitcodec_cli.splicing import splice
from bitcodec_cli.stopping import Stopped, stopped_by_signals


class _Group(click.Group):
    """A group that prints the library's errors in one line instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with stopped_by_signals():
                return super().invoke(ctx)
        except Stopped as stop:
            click.echo(f"error: {stop}", err=True)
            sys.exit(128 + stop.number)
        except BrokenPipeError:
            # The reader of our output went away: `bitcodec ... | head` is no error of ours.
            sys.stderr.close()
            sys.exit(0)
        except (BitcodecError, OSError, MemoryError) as error:
            message = " ".join(str(error).split()) or type(error).__name__
            click.echo(f"error: {message}", err=True)
            sys.exit(1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(bitcodec.__version__, prog_name="bitcodec")
def main() -> None:
    """Learned binary codes for LLM hidden states.

    From text to search results, a command a step:

    \b
      bitcodec harvest pydoc -o hidden --max-rows 24000
      bitcodec fit hidden -o codec
      bitcodec encode codec hidden -o codes.npy
      bitcodec index build codec codes.npy -o index
      bitcodec search codec index --text "raise an exception" --harvest hidden

    `bitcodec demo` does all of it and shows what came of it.
    """


for _command in (
    demo,
    harvest,
    embed,
    sensitivity,
    fit,
    encode,
    decode,
    info,
    index,
    search,
    evaluate,
    report,
    name,
    splice,
):
    main.add_command(_command)
