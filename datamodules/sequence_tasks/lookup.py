"""A table of keys and values in the context, then questions of several hops through it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from datamodules.sequence_tasks.task import Law, Task, Tokens, earlier, numbered, require


@dataclass(frozen=True)
class Lookup(Task):
    """`k v k v ... ? k a ? k a ... <|endoftext|>`, again and again, each time with a new table.

    The keys are random words. Each one's value is another key, and all of them form one random
    cycle, so that any number of hops below theirs leads to another key, each equally often; the
    pairs stand in random order. A question names a key that was not asked since the table; a is
    where `hops` steps from it lead.

    Args:
        vocab_size: Words V.
        pairs: Keys n of a table.
        queries: Questions after it.
        hops: Steps from the key of a question to its answer.
    """

    vocab_size: int
    pairs: int
    queries: int
    hops: int

    def __post_init__(self) -> None:
        require("vocab_size", self.vocab_size, 2)
        require("pairs", self.pairs, 2, self.vocab_size)
        require("queries", self.queries, 1, self.pairs)
        require("hops", self.hops, 1, self.pairs - 1)

    @property
    def words(self) -> list[str]:
        return [*numbered(self.vocab_size), "?"]

    @property
    def shortest(self) -> int:
        return 2 * self.pairs + 3

    @property
    def period(self) -> int:
        """Tokens from one table to the next."""
        return 2 * self.pairs + 3 * self.queries + 1

    def draw(self, random: np.random.Generator, count: int, length: int) -> Tokens:
        tables = count * -(-length // self.period)

        def orders(number: int) -> Tokens:
            return random.permuted(np.tile(np.arange(number), (tables, 1)), axis=1)

        cycle = orders(self.vocab_size)[:, : self.pairs]
        written, asked = orders(self.pairs), orders(self.pairs)[:, : self.queries]

        def keys(places: Tokens) -> Tokens:
            return np.take_along_axis(cycle, places % self.pairs, axis=1)

        mark, special = self.vocab_size, self.vocab_size + 1
        table = np.stack([keys(written), keys(written + 1)], axis=2)
        questions = np.stack(
            [np.full_like(asked, mark), keys(asked), keys(asked + self.hops)], axis=2
        )
        parts = [table.reshape(tables, -1), questions.reshape(tables, -1)]
        rows = np.concatenate([*parts, np.full((tables, 1), special)], axis=1)
        return rows.reshape(count, -1)[:, :length]

    def answers(self, tokens: Tokens) -> Bool[np.ndarray, "batch pos"]:
        place = np.arange(tokens.shape[1]) % self.period - 2 * self.pairs
        answer = (place >= 0) & (place < 3 * self.queries) & (place % 3 == 2)
        return np.tile(answer, (len(tokens), 1))

    def law(self, tokens: Tokens) -> Law:
        count, length = tokens.shape
        padded = np.pad(tokens, ((0, 0), (0, -length % self.period)))
        tables = padded.reshape(-1, self.period)[:, : 2 * self.pairs]
        questions = np.ones((len(tables), 3 * self.queries + 1))
        questions[:, 1:-1:3] = 1 / (self.pairs - np.arange(self.queries))  # keys not asked yet
        return Law(
            *(
                np.concatenate([part, questions], axis=1).reshape(count, -1)[:, :length]
                for part in self._table_law(tables)
            )
        )

    def _table_law(self, tables: Tokens) -> tuple[Float[np.ndarray, "table pos"], ...]:
        """Chance of each word of a table, and of the likeliest there.

        The pairs written so far are paths, and the words of the table not seen yet are paths of
        one word. Any path may come to be continued next, and each but itself may be what it is
        joined to; the last value closes the cycle. An unseen word is any of those left.
        """
        n, place = self.pairs, np.arange(2 * self.pairs)
        joined, is_value = place // 2, place % 2
        new = earlier(tables) < 0
        seen = np.cumsum(new, axis=1) - new
        ways = np.maximum(n - joined - is_value, 1)
        unseen = (n - seen) / np.maximum(self.vocab_size - seen, 1)
        unseen[:, -1] = 1.0
        known = seen - joined - is_value > 0
        return np.where(new, unseen, 1.0) / ways, np.where(known, 1.0, unseen) / ways
