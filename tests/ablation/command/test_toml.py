"""Settings from a file: the names and types of the command line, which wins."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import train
from mireg.ablation.command.arguments import KINDS, NOT_IN_FILES, Arguments, parse
from mireg.ablation.command.toml import as_toml
from mireg.ablation.errors import UserError
from mireg.ablation.setting import settings_of
from mireg.ablation.study.presets import PRESETS

NAMES = [name for kind in KINDS for name in settings_of(kind) if name not in NOT_IN_FILES]


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line with which the command line refuses."""
    assert train.main(list(words)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("train.py: ")
    return line.removeprefix("train.py: ")


class TestFile:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("batchsize = 32", "unknown option --batchsize=32 (did you mean --batch-size?)"),
            ("stpes = 9", "unknown option --stpes=9 (did you mean --steps?)"),
            ("list = true", "--list cannot be set in a file"),
            ("[cell]\nsteps = 9", "unknown option --cell={'steps': 9}"),
            ("steps = '9x'", "--steps: '9x' must be a whole number"),
            ("steps = 9.5", "--steps: '9.5' must be a whole number"),
            ("steps = true", "--steps: 'true' must be a whole number"),
            ("lr = 'fast'", "--lr: 'fast' must be a number"),
            ("steps = [9, 8]", "--steps: '[9, 8]' must be a whole number"),
            ("steps = false", "--steps: 'false' must be a whole number"),
            ("quiet = 1", "--quiet: ignored explicit argument '1'"),
            (f"steps = {'1' * 5000}", "is not TOML: Exceeds the limit"),
            (r'out = "a\u0000b"', "must not hold a zero character"),
            ("executor = 'slurm'", "--executor: invalid choice: 'slurm' (choose from"),
            ("steps = 9\nsteps = 8", "is not TOML: Cannot overwrite a value"),
            ("batch-size = 9\nbatch_size = 8", "a key is given twice, once with '-' and once with '_'"),
            ("steps =", "is not TOML: Invalid value (at end of document)"),
        ],
    )
    def test_refused(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str) -> None:
        path = tmp_path / "study.toml"
        path.write_text(text)
        line = refusal(capsys, "--config", str(path), "--print-config")
        assert str(path) in line
        assert message in line, line

    def test_unreadable(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        missing = tmp_path / "none.toml"
        assert (
            refusal(capsys, "--config", str(missing)) == f"cannot read --config {missing} (No such file or directory)"
        )
        missing.write_bytes(b"steps = '\xff'")
        assert "is not TOML: 'utf-8' codec can't decode" in refusal(capsys, "--config", str(missing))

    def test_the_command_line_wins(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "study.toml"
        path.write_text('steps = 9\nseeds = 2\narms = ["none", "mi"]\nlr = 1\n')
        assert train.main(["--config", str(path), "--steps", "8", "--print-config"]) == 0
        printed = tomllib.loads(capsys.readouterr().out)
        assert (printed["steps"], printed["seeds"], printed["arms"], printed["lr"]) == (8, 2, ["none", "mi"], 1.0)
        assert "target" not in printed

    def test_a_separator_is_no_value(self, tmp_path: Path) -> None:
        for option in ("--preset", "--steps", "--executor"):
            with pytest.raises(UserError, match=f"^{option}: '--' is no value"):
                parse([f"{option}=--"], "train.py")
        path = tmp_path / "study.toml"
        for line in ('out = "--"', 'arms = ["none", "--"]'):
            path.write_text(line)
            with pytest.raises(UserError, match=f"study.toml: --{line[:3]}[a-z]*: '--' is no value"):
                parse(["--config", str(path)], "train.py")

    @settings(max_examples=100)
    @given(
        st.fixed_dictionaries(
            {},
            optional={
                "preset": st.text(),
                "arms": st.lists(st.text(), min_size=1).map(tuple),
                "steps": st.integers(),
                "lr": st.floats(allow_nan=False),
                "out": st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1).map(Path),
                "quiet": st.booleans(),
                "progress": st.sampled_from(["auto", "json"]),
            },
        )
    )
    def test_what_is_printed_reads_back(self, tmp_path: Path, values: dict[str, Any]) -> None:
        assume("\0" not in str(values.values()) and "\\x00" not in str(values.values()))
        assume(not {"--", Path("--")} & {*values.values(), *values.get("arms", ())})
        path = tmp_path / "study.toml"
        path.write_text(as_toml(values), encoding="utf-8")
        study: dict[str, Any] = {name: values.pop(name) for name in ("arms", "steps", "lr") if name in values}
        assert parse(["--config", str(path)], "train.py") == Arguments(**values, config=path, study=study)


scalars = st.one_of(
    st.booleans(), st.integers(), st.floats(), st.text(st.characters(codec="utf-8")), st.dates(), st.datetimes()
)
near = st.sampled_from([*NAMES, *(name.replace("_", "-") for name in NAMES), "stpes", "lists", "config"])
words = ["mlp", "cnn", "digits", "adam", "none", "mi", "kde", "depth=2", "width=0", "depth=x", "=", "auto", "cpu"]
likely = st.sampled_from([*words, *PRESETS, 0, 1, -1, 0.5, 10**400])


def toml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(character):08x}" for character in value) + '"'
    return repr(value).lower() if isinstance(value, bool | int | float) else value.isoformat()


class TestFuzz:
    """No file ends in a traceback: it is read, or refused in one line."""

    def check(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        status = train.main(["--config", str(path), "--print-config"])
        captured = capsys.readouterr()
        assert status in (0, 2)
        assert len(captured.err.splitlines()) == (1 if status else 0), captured.err
        if status == 0:
            tomllib.loads(captured.out)

    @settings(max_examples=500)
    @given(table=st.dictionaries(near, st.one_of(likely, scalars, st.lists(st.one_of(likely, scalars), max_size=3))))
    def test_tables(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], table: dict[str, Any]) -> None:
        path = tmp_path / "study.toml"
        path.write_text("".join(f"{key} = {toml(value)}\n" for key, value in table.items()), encoding="utf-8")
        self.check(path, capsys)

    @settings(max_examples=200)
    @given(data=st.one_of(st.binary(), st.text(alphabet="=[]{}'\"\n.#-_ 19etruanifsd,\\u").map(str.encode)))
    def test_bytes(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes) -> None:
        path = tmp_path / "study.toml"
        path.write_bytes(data)
        self.check(path, capsys)


class TestCommandLine:
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--stpes", "9"], "unknown option --stpes (did you mean --steps?)"),
            (["--batchsize=9"], "unknown option --batchsize=9 (did you mean --batch-size?)"),
            (["--steps", "x"], "--steps: 'x' must be a whole number"),
            (["--lr", "fast"], "--lr: 'fast' must be a number"),
            (["--steps"], "--steps: expected one argument"),
            (["extra"], "unknown option extra"),
            (["--step", "9"], "unknown option --step (did you mean --steps?)"),
            (["--executor", "slurm"], "--executor: invalid choice: 'slurm' (choose from"),
            (["--preset", "dmeo"], "unknown preset 'dmeo' (did you mean demo?): choose from demo"),
            (["--steps", "0"], "steps=0: give at least 1"),
            (["--seeds", "0"], "seeds=0: give at least 1 and at most 10000"),
            (["--seeds", "1000000000"], "seeds=1000000000: give at least 1 and at most 10000"),
            (["--arms", "none", "none"], "arms=('none', 'none'): name each once"),
            (["--arms", "../up"], "unknown arm '../up'"),
            (["--cells", "lenets"], "unknown cell 'lenets' (did you mean lenet?): choose from lenet"),
            (["--target", "1.5"], "goal=1.5: give an accuracy above 0 and at most 1"),
            (["--lr", "nan"], "lr=nan: give a positive number"),
            (["--lr", "0"], "lr=0.0: give a positive number"),
            (["--weight", "-1"], "weight=-1.0: give at least 0"),
            (["--weight", "inf"], "weight=inf: give at least 0"),
            (["--decay-steps", "0"], "decay_steps=0: give at least 1"),
            (["--batch-size", "1"], "batch_size=1: MI needs at least 2 samples"),
            (["--eval-every", "0"], "eval_every=0: give at least 1"),
            (["--optimizer", "adan"], "optimizer='adan': choose from adam, adamw, sgd, muon"),
            (["--dataset", "../../etc"], "dataset='../../etc': choose from digits"),
            (["--model", "../mlp"], "unknown model '../mlp'"),
            (["--model-options", "depth"], "--model-options depth: write key=value"),
            (["--model", "mlp", "--model-options", "depth=0"], "depth=0: must be at least 1"),
            (["--model-options", f"width={10**30}"], ""),
            (["--device", "tpu"], "device 'tpu' is not on this machine"),
            (["--workers", "0"], "workers=0: give at least 1"),
            (["--threads", "0"], "threads=0: give at least 1"),
            (["--checkpoint-seconds", "-1"], "checkpoint_seconds=-1.0: give at least 0"),
            (["--checkpoint-seconds", "nan"], "checkpoint_seconds=nan: give at least 0"),
        ],
    )
    def test_refused_before_any_work(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
    ) -> None:
        assert message in refusal(capsys, *words, "--out", str(tmp_path / "out"))
        assert not (tmp_path / "out").exists()
