"""Pairing rows with columns so that the weights of the pairs sum to the most."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int


def assign(weights: Float[np.ndarray, "rows columns"]) -> Int[np.ndarray, " rows"]:
    """The column of each row in an optimal one-to-one assignment (Kuhn 1955; Munkres 1957).

    Shortest augmenting paths with potentials: R^2 steps of C operations each.

    Returns:
        int64 columns; -1 for rows left over where there are more rows than columns.
    """
    rows, columns = weights.shape
    if rows > columns:
        chosen = np.full(rows, -1)
        chosen[assign(weights.T)] = np.arange(columns)
        return chosen
    cost = -weights
    row_price, column_price = np.zeros(rows), np.zeros(columns + 1)
    row_of = np.full(columns + 1, -1)  # the last column is where a new row enters
    for row in range(rows):
        row_of[columns] = row
        column, way = columns, np.full(columns, columns)
        distance, done = np.full(columns, np.inf), np.zeros(columns + 1, dtype=bool)
        while row_of[column] >= 0:
            done[column] = True
            here = row_of[column]
            reduced = cost[here] - row_price[here] - column_price[:columns]
            closer = ~done[:columns] & (reduced < distance)
            distance[closer], way[closer] = reduced[closer], column
            nearest = int(np.where(done[:columns], np.inf, distance).argmin())
            step = distance[nearest]
            row_price[row_of[done]] += step
            column_price[done] -= step
            distance[~done[:columns]] -= step
            column = nearest
        while column != columns:  # shift every row on the path by one
            row_of[column] = row_of[way[column]]
            column = int(way[column])
    chosen = np.empty(rows, dtype=np.int64)
    taken = np.flatnonzero(row_of[:columns] >= 0)
    chosen[row_of[taken]] = taken
    return chosen
