"""Prompts that demonstrate a task a number of times, and what a model makes of them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from bitcodec.errors import FormatError
from bitcodec.files import atomic_path
from bitcodec_transformers import LanguageModel
from bitcodec_transformers.causal import edited
from bitcodec_transformers.forward import find_blocks, forward_inputs

COUNTS = (0, 1, 2, 4, 8, 16)
"""Demonstrations before the question."""
TASKS: dict[str, tuple[tuple[str, str], ...]] = {
    "capital": (
        ("France", "Paris"), ("Japan", "Tokyo"), ("Italy", "Rome"), ("Spain", "Madrid"),
        ("Germany", "Berlin"), ("Egypt", "Cairo"), ("Russia", "Moscow"), ("China", "Beijing"),
        ("Greece", "Athens"), ("Austria", "Vienna"), ("Portugal", "Lisbon"), ("Cuba", "Havana"),
        ("Ireland", "Dublin"), ("Norway", "Oslo"), ("Poland", "Warsaw"), ("Sweden", "Stockholm"),
        ("Iran", "Tehran"), ("Iraq", "Baghdad"), ("Kenya", "Nairobi"), ("Peru", "Lima"),
        ("Turkey", "Ankara"), ("England", "London"), ("Canada", "Ottawa"), ("Hungary", "Budapest"),
    ),
    "antonym": (
        ("hot", "cold"), ("big", "small"), ("up", "down"), ("fast", "slow"),
        ("good", "bad"), ("early", "late"), ("open", "closed"), ("left", "right"),
        ("high", "low"), ("young", "old"), ("rich", "poor"), ("hard", "soft"),
        ("light", "dark"), ("full", "empty"), ("strong", "weak"), ("happy", "sad"),
        ("first", "last"), ("true", "false"), ("wet", "dry"), ("long", "short"),
        ("near", "far"), ("day", "night"), ("win", "lose"), ("buy", "sell"),
    ),
    "plural": (
        ("dog", "dogs"), ("house", "houses"), ("child", "children"), ("city", "cities"),
        ("tree", "trees"), ("man", "men"), ("woman", "women"), ("book", "books"),
        ("foot", "feet"), ("box", "boxes"), ("country", "countries"), ("river", "rivers"),
        ("mouse", "mice"), ("story", "stories"), ("car", "cars"), ("person", "people"),
        ("tooth", "teeth"), ("leaf", "leaves"), ("bird", "birds"), ("family", "families"),
        ("school", "schools"), ("knife", "knives"), ("star", "stars"), ("army", "armies"),
    ),
}  # fmt: skip
"""Questions and answers of the built-in tasks."""


@dataclass(frozen=True)
class Prompt:
    """A prompt whose next token begins the answer."""

    task: str
    """Prompts of a task are compared with each other."""
    question: str
    """What is asked; prompts of one question are not independent of each other."""
    demonstrations: int
    """How many came before."""
    prompt: str
    """The whole text."""
    answer: str
    """The text that should follow it, with its leading space if it has one."""


@dataclass(frozen=True, eq=False)
class Answers:
    """States and predictions at the last token of each prompt."""

    hidden: dict[int, np.ndarray]
    """For each layer (n, d) float32."""
    probability: np.ndarray
    """(n,) of the first token of the right answer."""
    is_first: np.ndarray
    """(n,) bool, whether that token is the likeliest."""

    def save(self, path: Path) -> None:
        """Write a .safetensors file."""
        tensors = {f"layer-{layer}": states for layer, states in self.hidden.items()}
        others = {"probability": self.probability, "is_first": self.is_first}
        with atomic_path(path) as temporary:
            save_file(tensors | others, temporary)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        tensors = load_file(path)
        probability, is_first = tensors.pop("probability"), tensors.pop("is_first")
        hidden = {int(name.split("-")[1]): states for name, states in tensors.items()}
        return cls(hidden, probability, is_first)


def kept_answers(
    model: LanguageModel, prompts: Sequence[Prompt], *, layers: Sequence[int], cache: Path
) -> Answers:
    """Return `answer_prompts`, from the cache where the same was asked before."""
    asked = json.dumps([[vars(prompt) for prompt in prompts], sorted(layers)])
    path = cache / f"answers-{hashlib.sha256(asked.encode()).hexdigest()[:12]}.safetensors"
    if not path.exists():
        answer_prompts(model, prompts, layers=layers).save(path)
    return Answers.load(path)


def built_in_prompts(*, seed: int = 0) -> list[Prompt]:
    """Ask every question of every task after each number of demonstrations.

    Beside each task stands the same with the demonstrations' answers exchanged among them, so that
    they show the form but not the task.
    """
    prompts = []
    for task, pairs in TASKS.items():
        for place, (question, answer) in enumerate(pairs):
            others = [*pairs[:place], *pairs[place + 1 :]]
            drawn = random.Random(f"{seed} {task} {question}").sample(others, max(COUNTS) + 1)
            for count in COUNTS:
                right = drawn[:count]
                moved = [(drawn[k][0], drawn[(k + 1) % (count + 1)][1]) for k in range(count)]
                for name, shown in ((task, right), (f"{task}, answers exchanged", moved)):
                    text = "".join(f"{asked} -> {told}\n" for asked, told in shown)
                    prompts.append(
                        Prompt(name, question, count, f"{text}{question} ->", f" {answer}")
                    )
    return prompts


def read_prompts(path: Path) -> list[Prompt]:
    """Read a JSON object a line with the fields of `Prompt`.

    Raises:
        FormatError: a line is none.
    """
    prompts = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            prompts.append(Prompt(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise FormatError(
                f"line {number} of {path} must be a JSON object with task, question, "
                f"demonstrations, prompt and answer ({error})"
            ) from error
    return prompts


def answer_prompts(
    model: LanguageModel, prompts: Sequence[Prompt], *, layers: Sequence[int], batch: int = 16
) -> Answers:
    """Run the model on every prompt.

    Args:
        model: a causal language model.
        prompts: n of them.
        layers: the blocks whose output is kept, from 0.
        batch: prompts read at once, of like length.
    """
    ids = [model.tokenizer(prompt.prompt).input_ids for prompt in prompts]
    goals = [first_token(model, prompt) for prompt in prompts]
    hidden = {layer: np.empty((len(ids), model.n_dims), np.float32) for layer in layers}
    probability, is_first = np.empty(len(ids)), np.empty(len(ids), dtype=bool)
    order = sorted(range(len(ids)), key=lambda k: len(ids[k]))
    for start in range(0, len(order), batch):
        members = order[start : start + batch]
        with _kept(model, layers) as states:
            logits = _read(model, [ids[k] for k in members])
        last = torch.tensor([len(ids[k]) - 1 for k in members], device=logits.device)
        rows = torch.arange(len(members), device=logits.device)
        shares = logits[rows, last].float().softmax(dim=1).cpu().numpy()
        wanted = [goals[k] for k in members]
        probability[members] = shares[np.arange(len(members)), wanted]
        is_first[members] = shares.argmax(axis=1) == wanted
        for layer in layers:
            hidden[layer][members] = states[layer][rows, last].float().cpu().numpy()
    return Answers(hidden, probability, is_first)


def first_token(model: LanguageModel, prompt: Prompt) -> int:
    """Return the token that follows the prompt's in the tokens of prompt and answer."""
    before = model.tokenizer(prompt.prompt).input_ids
    whole = model.tokenizer(prompt.prompt + prompt.answer).input_ids
    if whole[: len(before)] != before or len(whole) == len(before):
        raise FormatError(
            f"the answer {prompt.answer!r} must begin with a token of its own, but the tokens of "
            f"{prompt.prompt[-20:]!r} change before it: begin the answer with its space"
        )
    return int(whole[len(before)])


def _read(model: LanguageModel, ids: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return (b, t, v) logits of prompts padded on the right."""
    length = max(map(len, ids))
    padded = [[*row, *[0] * (length - len(row))] for row in ids]
    mask = [[1] * len(row) + [0] * (length - len(row)) for row in ids]
    device = model.model.device
    inputs = forward_inputs(
        model.model,
        token_ids=torch.tensor(padded, device=device),
        mask=torch.tensor(mask, device=device),
    )
    with torch.inference_mode():
        logits: torch.Tensor = model.model(**inputs).logits
    return logits


@contextlib.contextmanager
def _kept(model: LanguageModel, layers: Sequence[int]) -> Iterator[dict[int, torch.Tensor]]:
    blocks = find_blocks(model.model)
    states: dict[int, torch.Tensor] = {}

    def keep(layer: int, output: torch.Tensor) -> torch.Tensor:
        states[layer] = output.clone()
        return output

    with contextlib.ExitStack() as stack:
        for layer in layers:
            stack.enter_context(edited(blocks[layer], partial(keep, layer)))
        yield states
