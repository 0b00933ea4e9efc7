"""A judge behind an endpoint: a stub on the loopback that answers well, badly, or not at all."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from bitcodec.errors import BudgetError, ConfigError, FormatError, RemoteError
from bitcodec_naming import EndpointJudge, Excerpt, NamingSettings, Prices, name_features
from bitcodec_naming.spending import most_tokens
from tests.naming_sources import at_tokens, word_rows

IS, OF = Excerpt("it", " is", " so"), Excerpt("it", " of", " so")
PRICES = Prices(prompt=1.0, completion=2.0)
Reply = tuple[int, str | bytes, dict[str, str]]


class Stub:
    """An endpoint whose replies a test chooses."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.reply: Callable[[dict[str, Any]], Reply] = lambda request: said("Yes")
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                request = json.loads(self.rfile.read(length))
                stub.requests.append(request)
                stub.keys.append(self.headers["Authorization"])
                status, body, headers = stub.reply(request)
                data = body.encode() if isinstance(body, str) else body
                self.send_response(status)
                for name, value in ({"Content-Type": "application/json"} | headers).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


def said(text: Any, *, usage: Any = None) -> Reply:
    """A chat completion."""
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": text},
    }
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    return 200, json.dumps(body | ({} if usage is None else {"usage": usage})), {}


def failed(status: int) -> Reply:
    """An error that asks to be tried again at once."""
    return status, json.dumps({"error": {"message": "busy"}}), {"retry-after-ms": "1"}


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    made = Stub()
    thread = threading.Thread(target=made.server.serve_forever, daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


@pytest.fixture
def judge_of(stub: Stub, tmp_path: Path) -> Callable[..., EndpointJudge]:
    def make(**options: Any) -> EndpointJudge:
        given: dict[str, Any] = {"cache": tmp_path / "kept", "url": stub.url} | options
        return EndpointJudge("model", **given)

    return make


def test_names_and_answers_come_from_the_endpoint(
    stub: Stub, judge_of: Callable[..., EndpointJudge]
) -> None:
    def reply(request: dict[str, Any]) -> Reply:
        asked = request["messages"][-1]["content"]
        if "Name the property" in asked:
            return said("The word “is”.")
        assert "The property: The word “is”" in asked
        return said("Yes." if "<< is>>" in asked else "No.")

    stub.reply = reply
    texts = word_rows(3000)
    settings = NamingSettings(n_named=5, n_tested=6)
    (name,) = name_features(at_tokens(texts, [" is"]), judge_of(), settings=settings).names
    assert (name.explanation, name.verdict.score) == ("The word “is”", 1.0)
    assert {request["model"] for request in stub.requests} == {"model"}
    assert {request["temperature"] for request in stub.requests} == {0}


def test_a_question_is_asked_once(stub: Stub, judge_of: Callable[..., EndpointJudge]) -> None:
    first, again = judge_of(), judge_of()
    assert first.answer("it", [IS, OF]) == again.answer("it", [IS, OF]) == [1.0, 1.0]
    assert len(stub.requests) == 2
    assert (again.spending.n_requests, again.spending.n_cached) == (0, 2)


def test_another_model_is_asked_anew(
    stub: Stub, judge_of: Callable[..., EndpointJudge], tmp_path: Path
) -> None:
    judge_of().answer("it", [IS])
    EndpointJudge("other", cache=tmp_path / "kept", url=stub.url).answer("it", [IS])
    assert [request["model"] for request in stub.requests] == ["model", "other"]


def test_the_key_comes_from_the_environment_and_is_not_kept(
    stub: Stub,
    judge_of: Callable[..., EndpointJudge],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret-1")
    judge_of(key_variable="JUDGE_KEY").answer("it", [IS])
    assert stub.keys == ["Bearer secret-1"]
    kept = [path.read_text() for path in (tmp_path / "kept").iterdir()]
    assert kept
    assert "secret-1" not in "".join(kept)


def test_openai_needs_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY must hold the key"):
        EndpointJudge("model", cache=tmp_path)


def test_a_busy_endpoint_is_asked_again(stub: Stub, judge_of: Callable[..., EndpointJudge]) -> None:
    replies = [failed(429), failed(503), said("No")]
    stub.reply = lambda request: replies.pop(0)
    assert judge_of().answer("it", [IS]) == [0.0]
    assert len(stub.requests) == 3


def test_an_endpoint_that_stays_busy_is_given_up(
    stub: Stub, judge_of: Callable[..., EndpointJudge]
) -> None:
    stub.reply = lambda request: failed(503)
    with pytest.raises(RemoteError, match="does not answer as an OpenAI-compatible endpoint"):
        judge_of(n_retries=2).answer("it", [IS])
    assert len(stub.requests) == 3


def test_a_refused_key_is_not_tried_again(
    stub: Stub, judge_of: Callable[..., EndpointJudge]
) -> None:
    stub.reply = lambda request: failed(401)
    with pytest.raises(RemoteError, match="401"):
        judge_of().answer("it", [IS])
    assert len(stub.requests) == 1


def test_an_endpoint_that_does_not_answer_is_given_up(
    stub: Stub, judge_of: Callable[..., EndpointJudge]
) -> None:
    def silent(request: dict[str, Any]) -> Reply:
        time.sleep(0.5)
        return said("Yes")

    stub.reply = silent
    with pytest.raises(RemoteError, match="timed out"):
        judge_of(n_retries=0, timeout=0.1).answer("it", [IS])


def test_no_endpoint_at_all_is_told(judge_of: Callable[..., EndpointJudge]) -> None:
    with pytest.raises(RemoteError, match="Connection error"):
        judge_of(url="http://127.0.0.1:9/v1", n_retries=0).answer("it", [IS])


@pytest.mark.parametrize(
    "body",
    [
        "",
        "not json",
        "[]",
        "{}",
        '"text"',
        "null",
        '{"choices": null}',
        '{"choices": []}',
        '{"choices": [null]}',
        '{"choices": [{"message": null}]}',
        '{"choices": "many"}',
        b"\xff\xfe\x00",
    ],
)
def test_a_reply_of_another_form_is_an_error_of_one_line(
    stub: Stub, judge_of: Callable[..., EndpointJudge], body: str | bytes, tmp_path: Path
) -> None:
    stub.reply = lambda request: (200, body, {})
    with pytest.raises(RemoteError, match=r"http://127\.0\.0\.1") as raised:
        judge_of(n_retries=0).answer("it", [IS])
    assert "\n" not in str(raised.value)
    assert list((tmp_path / "kept").iterdir()) == []


@pytest.mark.parametrize("kind", ["text/html", "text/plain"])
def test_a_web_page_is_no_reply(
    stub: Stub, judge_of: Callable[..., EndpointJudge], kind: str
) -> None:
    stub.reply = lambda request: (200, "<html>log in</html>", {"Content-Type": kind})
    with pytest.raises(RemoteError, match="must answer with a chat completion, got '<html>"):
        judge_of(n_retries=0).answer("it", [IS])


@pytest.mark.parametrize("text", ["", None, "Perhaps", "Yes or No", 7, ["Yes"], "\x00" * 10_000])
def test_replies_that_say_neither_yes_nor_no_are_undecided(
    stub: Stub, judge_of: Callable[..., EndpointJudge], text: Any
) -> None:
    stub.reply = lambda request: said(text)
    assert judge_of().answer("it", [IS]) == [0.5]


@pytest.mark.parametrize("text", ["x" * 100_000, "\x1b[31m" + "y" * 5000, "a\n" * 9999])
def test_a_name_is_short_and_printable_whatever_the_endpoint_says(
    stub: Stub, judge_of: Callable[..., EndpointJudge], text: str
) -> None:
    stub.reply = lambda request: said(text)
    name = judge_of().explain([IS], [OF])
    assert len(name) <= 200
    assert name.isprintable()


def test_spending_follows_what_the_endpoint_counts(
    stub: Stub, judge_of: Callable[..., EndpointJudge]
) -> None:
    stub.reply = lambda request: said("Yes", usage=usage(100, 2))
    judge = judge_of(prices=PRICES, budget=1.0)
    judge.answer("it", [IS, OF])
    assert judge.spending.dollars == pytest.approx(2 * (100 * 1 + 2 * 2) / 1e6)


@pytest.mark.parametrize("told", [None, {}, {"prompt_tokens": -5, "completion_tokens": -5}])
def test_tokens_that_the_endpoint_does_not_tell_count_as_the_most_there_can_be(
    stub: Stub, judge_of: Callable[..., EndpointJudge], told: Any
) -> None:
    stub.reply = lambda request: said("Yes", usage=told)
    judge = judge_of(prices=PRICES)
    judge.answer("it", [IS])
    assert judge.spending.prompt_tokens == most_tokens(stub.requests[0]["messages"])
    assert judge.spending.completion_tokens == 8


def test_a_budget_stops_before_it_is_exceeded(
    stub: Stub, judge_of: Callable[..., EndpointJudge]
) -> None:
    stub.reply = lambda request: said("Yes", usage=usage(400, 8))
    each = PRICES.cost(400, 8)
    judge = judge_of(prices=PRICES, budget=10.5 * each, n_retries=0, n_parallel=1)
    with pytest.raises(BudgetError, match="the next request could exceed the budget"):
        judge.answer("it", [Excerpt(f"{k}", " is", "") for k in range(30)])
    assert judge.spending.dollars <= 10.5 * each
    assert 5 <= len(stub.requests) <= 10


def test_a_budget_holds_for_requests_that_run_at_once(
    stub: Stub, judge_of: Callable[..., EndpointJudge]
) -> None:
    stub.reply = lambda request: said("Yes")  # tells no tokens: the most counts
    each = PRICES.cost(2000, 8)
    judge = judge_of(prices=PRICES, budget=5 * each, n_retries=0, n_parallel=8)
    with pytest.raises(BudgetError, match="could exceed the budget"):
        judge.answer("it", [Excerpt(f"{k}", " is", "") for k in range(60)])
    assert judge.spending.dollars <= 5 * each


def test_failed_attempts_count_as_the_most_they_could_cost(
    stub: Stub, judge_of: Callable[..., EndpointJudge]
) -> None:
    replies = [failed(500), said("Yes", usage=usage(10, 1))]
    stub.reply = lambda request: replies.pop(0)
    judge = judge_of(prices=PRICES)
    judge.answer("it", [IS])
    most = most_tokens(stub.requests[0]["messages"])
    assert judge.spending.dollars == pytest.approx(PRICES.cost(most + 10, 8 + 1))


def test_answers_paid_for_are_kept_when_the_budget_ends(
    stub: Stub, judge_of: Callable[..., EndpointJudge]
) -> None:
    asked = [Excerpt(f"{k}", " is", "") for k in range(30)]
    judge = judge_of(prices=PRICES, budget=PRICES.cost(6000, 8), n_retries=0, n_parallel=1)
    with pytest.raises(BudgetError, match="kept in the cache"):
        judge.answer("it", asked)
    n_paid = len(stub.requests)
    judge_of().answer("it", asked)
    assert len(stub.requests) == 30
    assert n_paid > 0


def test_a_dry_run_sends_nothing_and_bounds_the_price(
    stub: Stub, judge_of: Callable[..., EndpointJudge]
) -> None:
    stub.reply = lambda request: said("Yes", usage=usage(50, 2))
    source, settings = at_tokens(word_rows(3000), [" is"]), NamingSettings(n_named=5, n_tested=6)
    planned = judge_of(dry_run=True, prices=PRICES, budget=1e-9)
    name_features(source, planned, settings=settings)
    assert stub.requests == []
    real = judge_of(prices=PRICES)
    name_features(source, real, settings=settings)
    assert planned.spending.n_requests == real.spending.n_requests == len(stub.requests) == 13
    assert 0 < real.spending.dollars < planned.spending.dollars


def test_a_dry_run_counts_what_is_already_kept(judge_of: Callable[..., EndpointJudge]) -> None:
    judge_of().answer("it", [IS])
    planned = judge_of(dry_run=True)
    planned.answer("it", [IS, OF])
    assert (planned.spending.n_requests, planned.spending.n_cached) == (1, 1)


def test_a_damaged_file_of_the_cache_is_named(
    judge_of: Callable[..., EndpointJudge], tmp_path: Path
) -> None:
    judge_of().answer("it", [IS])
    (path,) = (tmp_path / "kept").iterdir()
    path.write_text('{"reply": "No"}')
    with pytest.raises(FormatError, match=f"{path.name} is no reply to this request"):
        judge_of().answer("it", [IS])


def test_a_budget_needs_prices(judge_of: Callable[..., EndpointJudge]) -> None:
    with pytest.raises(ConfigError, match="a budget needs the endpoint's prices"):
        judge_of(budget=1.0)
    with pytest.raises(ConfigError, match="the budget must be above 0 dollars, got 0"):
        judge_of(budget=0, prices=PRICES)
    with pytest.raises(ConfigError, match="prices must be at least 0, got -1"):
        Prices(prompt=-1)


def usage(prompt: int, completion: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
