#!/usr/bin/env bash
# Ends the cluster that start.sh has started in a folder: bash tests/slurm/stop.sh FOLDER
set -uo pipefail
export SLURM_CONF=${1:?usage: stop.sh FOLDER}/slurm.conf
scancel --state=RUNNING,PENDING --user=root 2>/dev/null
for file in node1.pid node2.pid slurmctld.pid munge/pid; do
    [[ -f $1/$file ]] && kill "$(<"$1/$file")"
done
exit 0
