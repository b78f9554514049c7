#!/bin/bash
# A training on 4 nodes of 32 cores under Slurm, taken up again after preemption, a lost node, and the time limit:
#     sbatch examples/clusters/slurm.sh run.toml run
# A rank has 8 cores; the 4 ranks of a node are the shards of a replica, and nodes are replicas.
#SBATCH --job-name=modelpar
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --signal=USR1@120
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -u
config=$1
run=$2
source .venv/bin/activate

# MPICH's mpiexec, also that of the PyPI wheel, asks Slurm for its nodes and starts a proxy on each by srun.  To start
# the ranks by srun itself, as for an MPI that the cluster brings, with pmi2 or pmix, whichever the MPI speaks:
#     modelpar=(srun --mpi=pmix --cpus-per-task="$SLURM_CPUS_PER_TASK" --wait=60 modelpar)
modelpar=(mpiexec -n "$SLURM_NTASKS" -ppn "$SLURM_NTASKS_PER_NODE" modelpar)

"${modelpar[@]}" info --ranks --threads "$SLURM_CPUS_PER_TASK"
"${modelpar[@]}" train --config "$config" --run-dir "$run" --resume --max-restarts 5 --checkpoint-every 500 \
    --model-shards "$SLURM_NTASKS_PER_NODE" --replicas "$SLURM_JOB_NUM_NODES" --threads "$SLURM_CPUS_PER_TASK"
status=$?
case $status in
  0 | 2 | 130) exit $status ;;  # finished; a mistake, or restarts used up; interrupted
  *) scontrol requeue "$SLURM_JOB_ID" ;;  # 4: asked to end, and saved; else a failure
esac
