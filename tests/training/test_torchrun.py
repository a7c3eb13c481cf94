"""`torchrun -m cce ...`: its own options stand in the way of none of ours. `test_parallel.py` runs it."""

import argparse

from cce.__main__ import build_parser


def flags():
    """Every flag of every command, by all its names."""
    (commands,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    for name, parser in commands.choices.items():
        for action in parser._actions:
            long = [option for option in action.option_strings if option.startswith("--")]
            if long and "--help" not in long:
                yield name, long


def test_every_flag_has_a_name_that_torchrun_passes_on():
    from torch.distributed.run import get_args_parser

    parser, taken = get_args_parser(), []
    for command, names in flags():
        passed = []
        for name in names:
            words = ["--nproc-per-node", "2", "-m", "cce", command, name, "1"]
            try:
                found = parser.parse_args(words)
            except SystemExit:  # "ambiguous option"
                continue
            if found.training_script_args == [command, name, "1"]:
                passed.append(name)
        if not passed:
            taken.append((command, names))
    assert not taken, "torchrun takes these for options of its own"
