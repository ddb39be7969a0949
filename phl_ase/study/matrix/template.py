"""The configuration that ``phl study --init`` writes: the paper's comparison on the bundled data, with comments."""

from __future__ import annotations

from pathlib import Path

from phl_ase.errors import PHLError

TEMPLATE = """\
# Study of phl_ase: run it with 'phl study CONFIG.toml --out FOLDER', look before with --plan.
# Every key that is not here is at its default; the sections data, potential, loss and training are those of phl train.

title = "What supervising curvature buys"

[data]
source = "reactions-wb97xd-631gd"  # bundled name, our HDF5, or anything ase.io reads
fractions = [0.8, 0.1, 0.1]        # train, valid, test
# max_atoms = 4                    # leave larger systems out
# keys = { energy = "my_energy" }  # label = "key in the file", for files read by ase.io

[potential]
architecture = "painn"
channels = 64
layers = 2
n_basis = 8

[loss]                             # of every scheme, unless [weights] or [tuning] say otherwise
energy = 40.0
forces = 1.0
curvature = 0.2

[training]
batch_size = 16
learning_rate = 0.005
validate_every = 5

[budget]
epochs = 200                       # budget "epochs": the same for every cell; fewer frames are given as many steps
epochs_of = { stationary = 300 }   # a split's own number
time_of = "E-F-HVP-random"         # budget "time": what this scheme takes with fresh probes …
time_epochs = 300                  # … for so many epochs
clock = "processor"                # or wall, where the device is a GPU
step_cap = { "E-F-H" = 20000 }     # most optimiser steps of a cell, by scheme; it is shown where it is in force
rounds = 5                         # how often steps are timed, the schemes in turn

# Loss weights of single schemes. Tuned weights should cost every scheme as much: [tuning] tries equally many for each
# on validation frames and takes the smallest sum of the logarithms of energy, force and Hessian errors.
[weights]
"E-F" = { energy = 10.0 }
"E-F-HVP-onehot" = { curvature = 0.05 }
"E-F-HVP-random" = { curvature = 0.2 }
"E-F-H" = { curvature = 0.2 }

[tuning]
epochs = 60
split = "random"
seed = 0
# [tuning.settings]                # in place of [weights]
# "E-F" = [{ energy = 10.0 }, { energy = 40.0 }, { energy = 160.0 }]
# "E-F-H" = [{ curvature = 0.05 }, { curvature = 0.2 }, { curvature = 0.8 }]

[validators]
run = ["accuracy", "frequencies", "ts", "irc"]  # and phonons
reactions = []                     # to search and follow; by default all that have test frames

[validators.frequencies]
relaxed = false                    # at the model's own stationary points too
kinds = ["reactant", "product", "ts"]

[validators.ts]
displacement = 0.1                 # RMS of the starts from the reference's TS, Å
starts = 2                         # for each TS
seed = 0
max_steps = 200
follow = true                      # follow the reaction path from each TS found
# way = "gradients"                # as in phl validate ts

[validators.irc]
method = "sella"                   # or quadratic
step = 0.1                         # √amu·Å

[validators.phonons]
crystal = ""                       # a file of the unit cell
supercell = [3, 3, 3]
reference = "emt"                  # METHOD
mesh = [10, 10, 10]

# Blocks of cells: every combination of a block's lists that exists. Repeat [[matrix]] as needed.
[[matrix]]
schemes = ["E-F", "E-F-HVP-onehot", "E-F-HVP-random", "E-F-H"]
regimes = ["fresh"]                # fresh: probes drawn anew for every minibatch; fixed: the same K of each frame
products = ["exact"]               # differences: of forces at two places, a cheaper step
splits = ["random"]                # random, stationary, by-reaction
seeds = [0, 1, 2]                  # of split, weights, batches and probes
fractions = [1.0]                  # of the training frames
budgets = ["epochs"]               # epochs, time

[[matrix]]
schemes = ["E-F-HVP-onehot", "E-F-HVP-random"]
regimes = ["fixed"]
n_probes = [1]                     # K, of the fixed regime
probes = ["rademacher"]            # of E-F-HVP-random: rademacher, gaussian, sphere, orthogonal

# Single cells, named.
# [[cell]]
# scheme = "E-F-HVP-random"
# regime = "fixed"
# n_probes = 4
# probes = "orthogonal"
# products = "differences"
# split = "random"
# seed = 0
# fraction = 0.5
# budget = "epochs"
"""


def write_template(path: Path) -> Path:
    """Write the commented configuration.

    Raises:
        PHLError: Where the file exists or cannot be written.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(TEMPLATE)
    except FileExistsError:
        raise PHLError(f"{path} exists; name another file: phl study --init other.toml") from None
    except OSError as error:
        raise PHLError(f"cannot write {path}: {error.strerror}; name another file") from None
    return path
