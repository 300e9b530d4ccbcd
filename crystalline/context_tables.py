"""What `crystalline.context` has read, as tables on the terminal and as a picture."""

from __future__ import annotations

import io
from typing import Any

from crystalline.text_table import text_table


def tables(found: dict[str, Any]) -> str:
    """The loss by window, and by length of the match."""
    read = f"{found['targets']:,} targets of {found['data']}, {found['split']}"
    title = f"{found['model']}, step {found['steps']}: {read}"
    windows = "loss after the last tokens alone"
    if found["alignment"] > 1:
        windows += f"; windows start at multiples of {found['alignment']}, so most hold more"
    matched = (
        f"nats by tokens before the target that stand in {found['ngram_tokens']:,} tokens of "
        f"training; difference: model - {found['ngrams'][-1]['order']}-gram, with its 95 % interval"
    )
    blocks = [
        title,
        f"{windows}\n{text_table(found['windows'])}",
        f"{matched}\n{text_table(found['matches'])}",
    ]
    return "\n\n".join(blocks) + "\n"


def picture(found: dict[str, Any]) -> bytes:
    """Loss against the tokens seen, of the model and of n-grams, which see n - 1; as a PNG."""
    from matplotlib.figure import Figure  # pyplot would look for a screen
    from matplotlib.ticker import NullLocator

    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    axes = figure.subplots()
    seen = [row["seen"] for row in found["windows"]]
    axes.plot(seen, [row["nats"] for row in found["windows"]], "o-", label=found["model"])
    orders = [row["order"] - 1 for row in found["ngrams"]]
    axes.plot(orders, [row["nats"] for row in found["ngrams"]], "s--", label="n-grams")
    axes.set_xscale("symlog", base=2, linthresh=1)  # an order of 1 sees nothing, and 0 has no log
    ticks = [0, *(row["window"] for row in found["windows"])]
    axes.set_xticks(ticks, [str(tick) for tick in ticks], fontsize="small")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("tokens seen")
    axes.set_ylabel("nats a token")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()
