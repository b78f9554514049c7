#!/bin/bash
# A training on 4 nodes of 32 cores under PBS Professional or OpenPBS:
#     qsub -v CONFIG=run.toml,RUN=run examples/clusters/pbs.sh
# A rank has 8 cores; the 4 ranks of a node are the shards of a replica, and nodes are replicas.
#PBS -N modelpar
#PBS -l select=4:ncpus=32:mpiprocs=4:ompthreads=8
#PBS -l place=scatter:excl
#PBS -l walltime=08:00:00
#PBS -r y
#PBS -j oe
set -u
cd "$PBS_O_WORKDIR" || exit
source .venv/bin/activate

# PBS has a line for each rank in this file.  MPICH's mpiexec takes repeated names as ranks of one node; Open MPI's
# mpirun needs no list where it was built for PBS, and else --hostfile.
mpiexec -f "$PBS_NODEFILE" -n "$(wc -l < "$PBS_NODEFILE")" \
    modelpar train --config "$CONFIG" --run-dir "$RUN" --resume --max-restarts 5 --checkpoint-every 500 \
    --model-shards 4 --replicas 4 --threads 8
