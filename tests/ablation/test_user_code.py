"""Errors in a user's own file, in one line that says where."""

from __future__ import annotations

from pathlib import Path

import pytest

from mireg.ablation.errors import UserError
from mireg.ablation.user_code import import_name


def test_a_task_without_a_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "from mireg.ablation import Task\n\nTASK = Task('ranks', lambda outputs, y: outputs.sum(), {}, outputs=1)\n"
    (tmp_path / "without_metric.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError) as raised:
        import_name("without_metric:TASK")
    told = 'metrics={}: give task \'ranks\' at least one, as {"NAME": (function, "max")}'
    assert str(raised.value) == f"without_metric:TASK: {told} ({tmp_path / 'without_metric.py'}, line 3)"
