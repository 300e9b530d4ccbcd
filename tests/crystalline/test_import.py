"""What starts quickly must not import what is slow."""

import subprocess
import sys

import pytest

from tests.running import ROOT

SLOW = "{'torch', 'lightning', 'mlflow', 'matplotlib', 'datasets', 'tokenizers'}"


@pytest.mark.parametrize(
    "code",
    [
        "import crystalline, crystalline.errors",
        "import crystalline.run, crystalline.evaluate, crystalline.prepare",
        "sys.argv = ['benchmark', '--help']; import crystalline.benchmark.__main__ as c; c.main()",
        *(
            f"sys.argv = ['{name}', '--help']; import crystalline.{name} as c; c.main()"
            for name in ("run", "evaluate", "search", "intervene", "words", "context")
        ),
    ],
)
def test_importing_and_helping_wait_for_nothing_slow(code):
    check = f"slow = {SLOW} & set(sys.modules); assert not slow, slow"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}; {check}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    if "--help" in code:
        assert "Keys" in done.stdout


def test_the_package_names_what_it_gives():
    import crystalline
    from crystalline.checkpoint import Loaded, load

    assert crystalline.load is load
    assert crystalline.Loaded is Loaded
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        crystalline.lod  # noqa: B018
