"""The same commands where a bad access or an undefined operation ends the program."""

import subprocess

import numpy as np
import pytest

from tests.crystalline.export.runtime.driving import EVEN, difference, small_model
from tests.crystalline.export.runtime.old_files import write_v1, write_v2
from tests.crystalline.export.runtime.schemes import WEIGHTS
from tests.crystalline.export.runtime.tables import closed, merges_of, tables, trained
from tests.crystalline.export.runtime.writing import write_model

pytestmark = pytest.mark.usefixtures("unchecked")
TINY = {"vocab_size": 290, "context_length": 5, "d_model": 4, "d_mlp": 6, "capacity": 3,
        "founders": 3, "num_heads": 2, "num_codes": 2}  # fmt: skip


def mixed(model):
    return {name: WEIGHTS[i % len(WEIGHTS)] for i, name in enumerate(model.state_dict())}


def with_tokenizer():
    """Metadata and tables with 289 ids, of which some tokens are left out."""
    tokenizer = trained(["the cat and the hat sat with that other cat"] * 3, 320)
    merges = merges_of(tokenizer)
    known = [bytes([byte]) for byte in range(256)]
    known += [left + right for left, right in merges[5:]][:33]
    ids = {token: i for i, token in enumerate(known)}
    return tables(closed(known, merges), merges, ids, 289)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """A file of each kind."""
    folder = tmp_path_factory.mktemp("seeds")
    metadata, tensors = with_tokenizer()
    first = small_model(**TINY)
    write_model(folder / "tokenizer.crystal", first, extra=metadata, tables=tensors)
    second = small_model(
        **TINY | {"vocab_size": 9}, num_layers=2, attention="every", mode="faithful"
    )
    write_model(folder / "mixed.crystal", second, mixed(second).__getitem__)
    old = TINY | {"vocab_size": 9}
    write_v2(folder / "v2.crystal", small_model(**old, mode="faithful", attention="first"))
    blind = small_model(**old, mode="faithful", attention="none")
    write_v1(folder / "v1.crystal", blind, "int16", np.array([True, False, False]))
    return sorted(folder.glob("*.crystal"))


@pytest.mark.parametrize("kernels", ["scalar", None])
@pytest.mark.parametrize("sizes", [{}, EVEN], ids=["odd", "even"])
def test_logits_of_all_schemes(sanitized, file, sizes, kernels):
    model = small_model(num_layers=2, attention="every", **sizes)
    write_model(file, model, mixed(model).__getitem__)
    options = [] if kernels is None else ["--kernels", kernels]
    assert difference(sanitized, file, model, "--threads", 2, *options, count=10) <= 1e-4


def test_text(sanitized, seeds):
    path = seeds[1]
    assert path.name == "tokenizer.crystal"
    prompt = "the cat's  that\xa0other é 12 \n"
    for options in (["-n", 12], ["-n", 0, "--tokenize"], ["--info"], ["-n", 3, "--bench"]):
        sampling = ["--top-k", 9, "--top-p", 0.9, "--min-p", 0.01, "--seed", 3]
        sanitized.output("-m", path, "-p", prompt, *options, *sampling)
    sanitized.output("-m", path, "-n", 3)
    sanitized.error("-m", path, "--ids", "-p", 1000)
    sanitized.error("-m", path, "--kernels", "none")
    sanitized.error("-m", "/dev/null")


def test_old_files(sanitized, seeds):
    for path in (seeds[2], seeds[3]):
        for options in ([], ["--published"]):
            sanitized.output("-m", path, "--ids", "-p", 3, "-n", 8, *options)


def test_mutated_files_never_crash(sanitized, seeds):
    harness = sanitized.path.with_name("crystal_fuzz")
    done = subprocess.run(
        [harness, "2000", "1", *seeds], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    runs, _, accepted, _ = done.stdout.split()
    assert (runs, int(accepted) > 100) == ("2000", True)
