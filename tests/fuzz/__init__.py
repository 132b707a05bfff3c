"""Files, option lines and environments that nobody meant to give, and what the program says to them.

    python tests/fuzz [--count 50000] [--seed 0] [--jobs N]        what 'make fuzz' runs
    python tests/fuzz --case SEED                                  one of its cases once more

A seed makes a case (:mod:`fuzz.cases`): files that the program made itself (:mod:`fuzz.seeds`), one of them changed by
a mutator, and a command that reads it. Commands run in copies (forks) of a process that has imported everything
(:mod:`fuzz.running`), and what they say and leave is judged (:mod:`fuzz.judging`).
"""
