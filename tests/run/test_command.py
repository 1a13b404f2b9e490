from __future__ import annotations

from rethinkgen.run.command import train_command


def test_a_command_is_quoted_for_a_shell() -> None:
    command = train_command(["regularizer=[flip,rotation]", "model=mlp_1x512"])
    assert command == "python train.py 'regularizer=[flip,rotation]' model=mlp_1x512"


def test_a_run_of_an_experiment_needs_m() -> None:
    assert train_command(["+experiment=zhang2017/table_1"]) == "python train.py -m +experiment=zhang2017/table_1"
