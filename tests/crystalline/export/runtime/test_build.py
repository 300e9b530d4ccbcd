import os
import shutil
import subprocess

import pytest

from crystalline.errors import UserError
from crystalline.export.runtime.build import SOURCES, build, compiler, run
from crystalline.export.runtime.c_source import write_c_source
from tests.crystalline.export.runtime.driving import Program, difference, small_model
from tests.crystalline.export.runtime.writing import write_model


def test_without_a_compiler_one_line_says_so(monkeypatch, tmp_path):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="needs a C11 compiler, no cc, gcc or clang is there"):
        build(tmp_path)


def test_a_named_compiler_is_taken_or_missed(monkeypatch):
    monkeypatch.setenv("CC", "ls -l")
    assert compiler() == ["ls", "-l"]
    monkeypatch.setenv("CC", "no-such-compiler -m32")
    with pytest.raises(UserError, match="CC=no-such-compiler -m32 is not there; install one"):
        compiler()


def test_what_the_compiler_says_is_told(plain, tmp_path):
    (tmp_path / "bad.c").write_text("int f(void) { return x; }\n")
    with pytest.raises(UserError, match=r"cannot compile the C runtime: .*error.*x"):
        run([*compiler(), "-c", "bad.c"], tmp_path)


def test_the_makefile_knows_every_program(plain):
    said = (SOURCES / "Makefile").read_text()
    assert "filter-out cli.c options.c fuzz.c" in said
    if shutil.which("make"):
        subprocess.run(["make", "-n", "all", "asan"], cwd=SOURCES, check=True, capture_output=True)


def test_a_program_that_holds_its_model_computes_what_the_file_says(plain, file, tmp_path):
    if not shutil.which("make"):
        pytest.skip("there is no make")
    model = small_model(attention="first", num_layers=2)
    write_model(file, model)
    data = write_c_source(file, tmp_path / "source")
    environment = {
        **os.environ,
        "CC": " ".join(compiler()),
        "CFLAGS": "-O0 -DCRYSTAL_NO_AVX512 -DCRYSTAL_NO_AVX2",
    }
    subprocess.run(["make", "-s", "crystal"], cwd=data.parent, check=True, env=environment)
    (data.parent / "model.crystal").unlink()
    program = Program(data.parent / "crystal")
    assert b"2 blocks" in program.output("--info")
    assert difference(program, file, model) <= 1e-4  # reads the file
    said = program.output("--ids", "-p", 3, "-n", 20, "-t", 0)  # reads itself
    assert said == plain.output("-m", file, "--ids", "-p", 3, "-n", 20, "-t", 0)


def test_a_compiler_that_cannot_include_files_gets_numbers(plain, file, tmp_path):
    content = b"CRYS" + bytes(range(255))
    file.write_bytes(content)
    data = write_c_source(file, tmp_path / "source")
    (tmp_path / "main.c").write_text(
        "#include <stdio.h>\nconst void *crystal_model_data(size_t *bytes);\n"
        "int main(void) { size_t n; const void *at = crystal_model_data(&n);\n"
        "fwrite(at, 1, n, stdout); return (size_t)at % 64 != 0; }\n"
    )
    for flags in ([], ["-DCRYSTAL_PORTABLE"]):
        command = [*compiler(), "-std=c11", *flags, "-o", str(tmp_path / "main")]
        run([*command, str(data), str(tmp_path / "main.c")], data.parent)
        done = subprocess.run([tmp_path / "main"], capture_output=True, check=True)
        assert done.stdout == content


def test_only_model_files_become_programs(file, tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        write_c_source(file, tmp_path)
    file.write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match=r"is not a \.crystal file; export the checkpoint first"):
        write_c_source(file, tmp_path)
