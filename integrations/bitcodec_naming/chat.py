"""A judge that is a chat model of transformers, on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from bitcodec.errors import ConfigError
from bitcodec_naming.excerpts import Excerpt
from bitcodec_naming.prompts import (
    Message,
    answer_messages,
    explain_messages,
    explanation_of,
)

MOST_NEW_TOKENS = 40
"""Of an explanation."""
NEUTRAL = Excerpt("", "", "")
"""Asked about to learn how much a model likes to say yes, whatever the context."""
_WORDS = {"yes": ("Yes", " Yes", "yes", " yes"), "no": ("No", " No", "no", " no")}


class ChatJudge:
    """Asks a local chat model; greedy, and so the same on every run.

    An answer is P(yes) / (P(yes) + P(no)) of the next token. Small models say yes, or no, to
    everything: with `calibrate` their log-odds about a context are compared to those about an empty
    one (Zhao et al., "Calibrate Before Use", 2021), which the explanation alone decides.

    Args:
        model: a causal language model of transformers, in evaluation mode.
        tokenizer: its tokenizer, with a chat template.
        name: of the judge.
        calibrate: compare to an empty context.
        batch_size: contexts asked about at once.

    Raises:
        ConfigError: the tokenizer has no chat template.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        calibrate: bool = True,
        batch_size: int = 16,
    ) -> None:
        if getattr(tokenizer, "chat_template", None) is None:
            raise ConfigError(
                f"the judge must be a chat model, got {name!r} without a chat template: take its "
                "instruction-tuned version"
            )
        self._model, self._tokenizer, self._name = model, tokenizer, name
        self._calibrate, self._batch_size = calibrate, batch_size
        self._yes, self._no = (self._first_tokens(_WORDS[word]) for word in ("yes", "no"))

    @property
    def name(self) -> str:
        """See `Judge.name`."""
        return self._name

    def explain(self, on: Sequence[Excerpt], off: Sequence[Excerpt]) -> str:
        """See `Judge.explain`."""
        inputs = self._inputs([explain_messages(on, off)])
        with torch.inference_mode():
            output = self._model.generate(
                **inputs,
                max_new_tokens=MOST_NEW_TOKENS,
                do_sample=False,
                pad_token_id=self._pad_id,
            )
        new = output[0, inputs["input_ids"].shape[1] :]
        return explanation_of(self._tokenizer.decode(new, skip_special_tokens=True))

    def answer(self, explanation: str, excerpts: Sequence[Excerpt]) -> Sequence[float]:
        """See `Judge.answer`."""
        asked = [*excerpts, NEUTRAL] if self._calibrate else list(excerpts)
        odds = torch.cat(list(self._log_odds(explanation, asked)))
        if self._calibrate:
            odds = odds[:-1] - odds[-1]
        answers: list[float] = torch.sigmoid(odds).tolist()
        return answers

    def _log_odds(self, explanation: str, excerpts: Sequence[Excerpt]) -> Iterator[torch.Tensor]:
        """Yield log P(yes) - log P(no) of batches of contexts, in float64."""
        for start in range(0, len(excerpts), self._batch_size):
            batch = excerpts[start : start + self._batch_size]
            inputs = self._inputs([answer_messages(explanation, excerpt) for excerpt in batch])
            with torch.inference_mode():
                logits = self._model(**inputs, logits_to_keep=1).logits[:, -1].double()
            yes, no = (logits[:, ids].logsumexp(dim=1) for ids in (self._yes, self._no))
            yield (yes - no).cpu()

    def _inputs(self, chats: list[list[Message]]) -> dict[str, torch.Tensor]:
        """Tokenize chats, padded on the left so that all end at the model's turn."""
        rows = [
            self._tokenizer(
                self._tokenizer.apply_chat_template(
                    chat, tokenize=False, add_generation_prompt=True
                ),
                add_special_tokens=False,
            )["input_ids"]
            for chat in chats
        ]
        longest = max(map(len, rows))
        pads = [longest - len(row) for row in rows]
        ids = [[self._pad_id] * pad + row for pad, row in zip(pads, rows, strict=True)]
        mask = [[0] * pad + [1] * (longest - pad) for pad in pads]
        device = self._model.device
        return {
            "input_ids": torch.tensor(ids, device=device),
            "attention_mask": torch.tensor(mask, device=device),
        }

    @property
    def _pad_id(self) -> int:
        pad, end = self._tokenizer.pad_token_id, self._tokenizer.eos_token_id
        return int(end if pad is None else pad)

    def _first_tokens(self, words: Sequence[str]) -> list[int]:
        """Return the first tokens of the spellings of a word."""
        encoded = (self._tokenizer(word, add_special_tokens=False)["input_ids"] for word in words)
        return sorted({int(ids[0]) for ids in encoded if ids})
