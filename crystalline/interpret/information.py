"""How much two labellings tell of each other, from the cells of their contingency table.

All information is in nats unless a name says bits; estimates are plug-in values, which rise with
the number of codes: only the adjusted measure has its chance level at 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_TERMS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Contingency:
    """Counts of the pairs (code, label) that occur; nothing is stored for those that do not."""

    cells: np.ndarray
    """(M,) int64 counts."""
    rows: np.ndarray
    """(M,) which entry of `row_sums` each cell belongs to; sorted."""
    columns: np.ndarray
    row_sums: np.ndarray
    """(R,) positions of each code that occurs."""
    column_sums: np.ndarray

    @property
    def total(self) -> int:
        """Number of positions."""
        return int(self.cells.sum())


def contingency(codes: np.ndarray, labels: np.ndarray) -> Contingency:
    """Count the pairs of two integer arrays (N,)."""
    _, rows, row_sums = np.unique(codes, return_inverse=True, return_counts=True)
    _, columns, column_sums = np.unique(labels, return_inverse=True, return_counts=True)
    pairs, cells = np.unique(rows * max(len(column_sums), 1) + columns, return_counts=True)
    split = np.divmod(pairs, max(len(column_sums), 1))
    return Contingency(cells, split[0], split[1], row_sums, column_sums)


def entropy(counts: np.ndarray) -> float:
    """Entropy in nats of counts (R,) > 0; 0 for an empty array."""
    total = counts.sum()
    if total == 0:
        return 0.0
    shares = counts / total
    return float(max(0.0, -(shares * np.log(shares)).sum()))


def mutual_information(table: Contingency) -> float:
    """I(code; label) in nats."""
    total = table.total
    if total == 0:
        return 0.0
    outer = table.row_sums[table.rows].astype(float) * table.column_sums[table.columns]
    return float(max(0.0, (table.cells / total * np.log(table.cells * total / outer)).sum()))


def string_bits(table: Contingency) -> dict[str, float]:
    """I(code; string), H(string | code) and H(code | string), in bits a position."""
    mutual, bit = mutual_information(table), float(np.log(2))
    return {
        "mutual_bits": mutual / bit,
        "string_bits_given_code": max(entropy(table.column_sums) - mutual, 0.0) / bit,
        "code_bits_given_string": max(entropy(table.row_sums) - mutual, 0.0) / bit,
    }


def purity(table: Contingency) -> float:
    """Share of positions that carry the commonest label of their code."""
    if table.total == 0:
        return 0.0
    starts = np.flatnonzero(np.diff(table.rows, prepend=-1))
    return float(np.maximum.reduceat(table.cells, starts).sum() / table.total)


def normalized_mutual_information(table: Contingency) -> float:
    """NMI = 2 I / (H(C) + H(Y)); 0 where both are constant."""
    entropies = entropy(table.row_sums) + entropy(table.column_sums)
    return 2 * mutual_information(table) / entropies if entropies > 0 else 0.0


def adjusted_mutual_information(table: Contingency) -> float:
    """AMI with the mean of both entropies as upper bound (Vinh, Epps and Bailey 2010).

    0 is chance, 1 is equality. Where both labellings are constant it is 0 here (scikit-learn says
    1): a collapsed codebook tells nothing.
    """
    upper = (entropy(table.row_sums) + entropy(table.column_sums)) / 2
    expected = expected_mutual_information(table.row_sums, table.column_sums)
    room = upper - expected
    if room < 1e-12:  # every position its own code and label, or both constant
        return 0.0
    return float((mutual_information(table) - expected) / room)


def expected_mutual_information(row_sums: np.ndarray, column_sums: np.ndarray) -> float:
    """Mean of I in nats over all pairings with these sums (hypergeometric model), exactly.

    Equal sums are computed once. Terms further from their mean m than 10 sqrt(m) + 60 are left
    out: their probability is below exp(-80), under the precision of a double.
    """
    total = int(row_sums.sum())
    if total == 0:
        return 0.0
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, total + 1)))])
    a, a_times = np.unique(row_sums, return_counts=True)
    b, b_times = np.unique(column_sums, return_counts=True)
    a, b = (grid.reshape(-1) for grid in np.meshgrid(a, b, indexing="ij"))
    weight = np.outer(a_times, b_times).reshape(-1)

    mean = a.astype(float) * b / total
    reach = 10 * np.sqrt(mean) + 60
    low = np.maximum.reduce(
        [np.ones_like(a), a + b - total, np.floor(mean - reach).astype(a.dtype)]
    )
    high = np.minimum.reduce([a, b, np.ceil(mean + reach).astype(a.dtype)])
    ends = np.cumsum(high - low + 1)

    expected, begin = 0.0, 0
    while begin < len(a):
        done = ends[begin - 1] if begin else 0
        stop = max(begin + 1, int(np.searchsorted(ends, done + _TERMS_AT_ONCE)))
        part = slice(begin, stop)
        terms = _expected_terms(a[part], b[part], low[part], high[part], total, log_factorial)
        expected += float((weight[part] * terms).sum())
        begin = stop
    return expected


def _expected_terms(
    a: np.ndarray,
    b: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    total: int,
    log_factorial: np.ndarray,
) -> np.ndarray:
    """Expected summand of each pair of sums (a, b): sum over the cell's value n = low..high."""
    lengths = high - low + 1
    starts = np.cumsum(lengths) - lengths
    pair = np.repeat(np.arange(len(a)), lengths)
    n = np.arange(len(pair)) - starts[pair] + low[pair]
    fixed = (
        log_factorial[a]
        + log_factorial[b]
        + log_factorial[total - a]
        + log_factorial[total - b]
        - log_factorial[total]
    )
    log_chance = (
        fixed[pair]
        - log_factorial[n]
        - log_factorial[a[pair] - n]
        - log_factorial[b[pair] - n]
        - log_factorial[total - a[pair] - b[pair] + n]
    )
    log_ratio = np.log(n) + (np.log(total) - np.log(a) - np.log(b))[pair]
    return np.add.reduceat(n / total * log_ratio * np.exp(log_chance), starts)


def conditional_information(codes: np.ndarray, labels: np.ndarray, given: np.ndarray) -> float:
    """I(code; label | given) in nats: H(c, g) + H(y, g) - H(c, y, g) - H(g)."""
    with_code, with_label = join(codes, given), join(labels, given)
    return max(
        0.0,
        _entropy_of(with_code)
        + _entropy_of(with_label)
        - _entropy_of(join(with_code, labels))
        - _entropy_of(given),
    )


def join(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """One number (N,) for each pair of numbers, counted from 0."""
    _, left_ids = np.unique(left, return_inverse=True)
    values, right_ids = np.unique(right, return_inverse=True)
    return np.unique(left_ids * max(len(values), 1) + right_ids, return_inverse=True)[1]


def _entropy_of(values: np.ndarray) -> float:
    return entropy(np.unique(values, return_counts=True)[1])
