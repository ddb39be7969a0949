#!/usr/bin/env bash
# Few frames of one's own, from nothing and from the bundled model "organic": malonaldehyde at another level of theory
# than organic's, GFN1-xTB, with one HVP a frame. About five minutes of one core. The table: workflows/organic_start.py.
#
#   bash workflows/organic_start.sh runs/organic_start
#   python workflows/organic_start.py runs/organic_start --json workflows/results/organic_start.json
set -euo pipefail
structures=$(cd "$(dirname "$0")/../examples/structures" && pwd)
mkdir -p "${1:?usage: organic_start.sh FOLDER}" && cd "$1"
export OMP_NUM_THREADS=1
level=tblite:GFN1-xTB
cp "$structures/malonaldehyde.xyz" mine.xyz
cp "$structures/malonaldehyde_ts_guess.xyz" guess.xyz

md="--with $level --relax --how md --temperature 600 --interval 50"
phl sample mine.xyz $md --count 50 --seed 1 -o test.xyz
phl label test.xyz --with $level --hessian differences -o test.h5
phl freq mine.xyz --with $level --relax -o reference_freq
phl ts guess.xyz --with $level -o reference_ts
for count in 15 50; do
    phl sample mine.xyz $md --count $count -o $count.xyz    # of the same trajectory
    phl label $count.xyz --with $level --hvp 1 -o $count.h5
    for seed in 0 1; do
        seeds="--set training.seed=$seed --set data.split_seed=$seed"
        phl train $count.h5 -o nothing$count-$seed $seeds
        phl train $count.h5 -o organic$count-$seed $seeds \
            --set 'potential.from="organic#1"' --set training.learning_rate=1e-3
        for run in nothing$count-$seed organic$count-$seed; do
            model=$run/best.safetensors
            phl evaluate $model test.h5 --json $run/errors.json
            phl freq mine.xyz --with $model --relax -o $run/freq
            phl ts guess.xyz --with $model -o $run/ts || true    # a search that finds nothing is a result
        done
    done
done
