#!/usr/bin/env bash
# Malonaldehyde from nothing: the commands of README's "Your own molecule", with held-out frames, energies and forces
# alone beside HVPs, the reaction itself beside the trajectory, and two seeds. About 12 minutes of one core. The table:
# workflows/malonaldehyde_table.py.
#
#   bash workflows/malonaldehyde.sh runs/malonaldehyde
#   python workflows/malonaldehyde_table.py runs/malonaldehyde --json workflows/results/malonaldehyde.json
set -euo pipefail
structures=$(cd "$(dirname "$0")/../examples/structures" && pwd)
mkdir -p "${1:?usage: malonaldehyde.sh FOLDER}" && cd "$1"
export OMP_NUM_THREADS=1
cp "$structures/malonaldehyde.xyz" mine.xyz
cp "$structures/malonaldehyde_ts_guess.xyz" guess.xyz

# frames.xyz is the first third of more.xyz: the same trajectory
md="--with tblite --relax --how md --temperature 600 --interval 50"
phl sample mine.xyz $md --count 150 -o frames.xyz
phl sample mine.xyz $md --count 450 -o more.xyz
phl sample mine.xyz $md --count 50 --seed 1 -o test.xyz
phl label frames.xyz --with tblite --hvp 1 -o mine.h5             # 450 gradients
phl label more.xyz --with tblite -o more.h5                       # 450 gradients
phl label test.xyz --with tblite --hessian differences -o test.h5
phl reactions guess.xyz --with tblite --hvp 1 -o reaction.h5      # 350 gradients: TS, path, minima, samples about them
phl data merge mine.h5 reaction.h5 -o both.h5

for seed in 0 1; do
    seeds="--set training.seed=$seed --set data.split_seed=$seed"
    phl train mine.h5 -o "hvp$seed" $seeds
    phl train mine.h5 -o "ef$seed" $seeds --set scheme.name=E-F
    phl train both.h5 -o "both$seed" $seeds
    # as many gradients as with HVPs, as many optimiser steps
    phl train more.h5 -o "more$seed" $seeds --set training.epochs=100
done

phl freq mine.xyz --with tblite --relax -o tblite_freq
phl ts guess.xyz --with tblite -o tblite_ts
for run in {ef,hvp,more,both}{0,1}; do
    model=$run/best.safetensors
    phl evaluate "$model" test.h5 --json "$run/errors.json"
    phl freq mine.xyz --with "$model" --relax -o "$run/freq"
    phl ts guess.xyz --with "$model" -o "$run/ts" || true             # a search that finds nothing is a result
done
