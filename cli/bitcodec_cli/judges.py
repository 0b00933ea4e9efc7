"""The judges of `bitcodec name`, and their options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from bitcodec_cli.options import FOLDER

if TYPE_CHECKING:
    from bitcodec_naming import EndpointJudge, Judge

JudgeKind = Literal["tokens", "lexical", "chat", "endpoint"]
KINDS = click.Choice(["tokens", "lexical", "chat", "endpoint"])
DEFAULT_CHAT_MODEL = "smollm2-135m"
DEFAULT_CACHE = Path("answers")
Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--model", help="Name or path of the chat model, or its name at the endpoint."),
    click.option("--url", help="Of the endpoint; by default OpenAI's."),
    click.option(
        "--key-variable", help="Environment variable with the key; by default OPENAI_API_KEY."
    ),
    click.option(
        "--cache",
        type=FOLDER,
        help="Folder that keeps what a language model says; by default an endpoint's in answers.",
    ),
    click.option(
        "--price",
        type=float,
        nargs=2,
        help="Dollars per million tokens that the endpoint reads, and writes.",
    ),
    click.option("--budget", type=float, help="Dollars that may be spent; stops before more are."),
    click.option("--dry-run", is_flag=True, help="Ask nothing; tell what it would cost at most."),
)


def judge_options(command: Command) -> Command:
    """Add the options that `make_judge` takes."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def make_judge(kind: JudgeKind, *, model: str | None, device: str, **endpoint: Any) -> Judge:
    """Return the judge that options ask for.

    Args:
        kind: of the judge.
        model: of chat and endpoint.
        device: where a chat model computes.
        endpoint: the other options of `judge_options`.

    Raises:
        click.UsageError: an option is missing, or is not of this judge.
    """
    from bitcodec_naming import lexical_judge, token_judge

    if kind == "endpoint":
        return _endpoint_judge(model, **endpoint)
    cache = endpoint.pop("cache")
    if any(endpoint.values()):
        given = next(name for name, value in endpoint.items() if value)
        raise click.UsageError(f"--{given.replace('_', '-')} is of --judge endpoint")
    if kind == "chat":
        return _chat_judge(model or DEFAULT_CHAT_MODEL, cache=cache, device=device)
    if model or cache:
        raise click.UsageError("--model and --cache are of --judge chat and --judge endpoint")
    return token_judge() if kind == "tokens" else lexical_judge()


def _chat_judge(model: str, *, cache: Path | None, device: str) -> Judge:
    from bitcodec_naming import ChatJudge, KeptJudge
    from bitcodec_transformers import load_model

    loaded = load_model(model, device=device)
    judge = ChatJudge(loaded.model, loaded.tokenizer, name=loaded.name)
    return judge if cache is None else KeptJudge(judge, cache=cache)


def _endpoint_judge(
    model: str | None,
    *,
    url: str | None,
    key_variable: str | None,
    cache: Path | None,
    price: tuple[float, float] | None,
    budget: float | None,
    dry_run: bool,
) -> EndpointJudge:
    from bitcodec_naming import EndpointJudge, Prices
    from bitcodec_naming.endpoint import DEFAULT_URL, KEY_VARIABLE

    if model is None:
        raise click.UsageError("--judge endpoint needs --model, what the endpoint calls it")
    return EndpointJudge(
        model,
        cache=cache or DEFAULT_CACHE,
        url=url or DEFAULT_URL,
        key_variable=key_variable or KEY_VARIABLE,
        prices=Prices(*price) if price else None,
        budget=budget,
        dry_run=dry_run,
    )
