#!/usr/bin/env bash
# Ends the jobs and the daemons of the cluster that start.sh has started in a folder: bash tests/slurm/stop.sh FOLDER
set -uo pipefail
export SLURM_CONF=${1:?usage: stop.sh FOLDER}/slurm.conf
export PATH=$PATH:/usr/sbin:/sbin

wait_until() { # at most 30 seconds
    for _ in {1..60}; do "$@" && return; sleep 0.5; done
    echo "stop.sh: still not so after 30 s: $*" >&2
    return 1
}
# shellcheck disable=SC2329  # called by wait_until
no_jobs() { [[ -z $(squeue --noheader) ]]; }
# shellcheck disable=SC2329
ended() { ! kill -0 "$1" 2>/dev/null; }

status=0
# A slurmd that ends before its jobs leaves their processes behind.
scancel --user="$(id -un)"
wait_until no_jobs || status=1
for file in node1.pid node2.pid slurmctld.pid munge/pid; do
    [[ -f $1/$file ]] || continue
    pid=$(<"$1/$file")
    kill "$pid" && { wait_until ended "$pid" || status=1; }
done
exit $status
