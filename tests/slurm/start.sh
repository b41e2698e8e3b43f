#!/usr/bin/env bash
# Starts a Slurm cluster of two nodes, node1 and node2, that both are this machine. Needs root and Debian's packages
# slurm-wlm and munge:
#
#   bash tests/slurm/start.sh FOLDER    # configuration, logs and state are written to FOLDER
#   export SLURM_CONF=FOLDER/slurm.conf; srun --partition=cpu --ntasks=2 hostname
#   bash tests/slurm/stop.sh FOLDER
#
# The nodes claim 2 processors each, however many there are, and there are no GPUs and no control groups.
set -euo pipefail
mkdir -p "${1:?usage: start.sh FOLDER}"
folder=$(cd "$1" && pwd)
port=$((20000 + $$ % 10000)) # and the two after it

mkdir -p "$folder"/{munge,state,node1,node2}
chmod 755 "$folder/munge"
head -c 128 /dev/urandom >"$folder/munge/key"
chmod 600 "$folder/munge/key"
munged --force --key-file "$folder/munge/key" --socket "$folder/munge/socket" --pid-file "$folder/munge/pid" \
    --log-file "$folder/munge/log" --seed-file "$folder/munge/seed"

cat >"$folder/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket,cred_expire=10
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=5
SlurmctldPidFile=$folder/slurmctld.pid
SlurmctldLogFile=$folder/slurmctld.log
StateSaveLocation=$folder/state
SlurmdPidFile=$folder/%n.pid
SlurmdLogFile=$folder/%n.log
SlurmdSpoolDir=$folder/%n
NodeName=node[1-2] NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + 2))] CPUs=2
PartitionName=cpu Nodes=ALL Default=YES MaxTime=60 OverTimeLimit=0
CONF
export SLURM_CONF=$folder/slurm.conf
slurmctld
for node in node1 node2; do slurmd -N "$node"; done
for _ in {1..60}; do
    [[ $(sinfo --noheader --format=%t 2>/dev/null) == idle ]] && exit
    sleep 0.5
done
echo "the nodes are not ready after 30 s; the logs are in $folder" >&2
exit 1
