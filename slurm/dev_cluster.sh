#!/usr/bin/env bash
# A real SLURM of one node, for trying things and for the tests. Its daemons listen on the address of
# this machine's name alone, since SLURM can be bound to no other: on loopback, if that is 127.0.0.1
# or 127.0.1.1 (see /etc/hosts). Else `start` notes where they listen.
#
#     slurm/dev_cluster.sh start     then: export SLURM_CONF=... as it prints
#     slurm/dev_cluster.sh status
#     slurm/dev_cluster.sh stop      ends its jobs, its daemons and removes all of its files
#     slurm/dev_cluster.sh stop-node, start-node    only slurmd, as when a node goes away
#
# Needs Debian's slurm-wlm and munge (.ci/system_packages.sh slurm). No systemd, no cgroups, no
# accounting (so `sacct` fails). Everything lies in one folder: DEV_CLUSTER, by default
# dreamer-slurm-USER in the temporary folder; another folder is another cluster. Sixteen CPUs are
# declared whatever the machine has; a requeued job waits DEV_CLUSTER_REQUEUE_S (10) seconds, where
# SLURM's own default is two minutes.
set -euo pipefail

folder="${DEV_CLUSTER:-${TMPDIR:-/tmp}/dreamer-slurm-$(id -un)}"
requeue_s="${DEV_CLUSTER_REQUEUE_S:-10}"
export SLURM_CONF="$folder/slurm.conf"
export PATH="$PATH:/usr/sbin:/sbin"

fail() { echo "error: $*" >&2; exit 1; }

# wait_for SECONDS COMMAND...: until the command succeeds
wait_for() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.2
    done
}

is_ours() {  # PID: it lives, and is no other process that was given the number since
    [ -n "${1:-}" ] && tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline" | grep -qF "$folder"
}

pid_of() { cat "$folder/$1.pid" 2>/dev/null || true; }

# launch NAME COMMAND...: in a session of its own, its output in NAME.out
launch() {
    local name="$1"
    shift
    setsid "$@" </dev/null >>"$folder/$name.out" 2>&1 &
    echo $! >"$folder/$name.pid"
}

end() {  # NAME: in order, else by force
    local pid
    pid="$(pid_of "$1")"
    is_ours "$pid" || return 0
    kill "$pid" 2>/dev/null || true
    gone() { ! is_ours "$pid"; }
    wait_for 15 gone || kill -9 "$pid" 2>/dev/null || true
    wait_for 5 gone || fail "$1 ($pid) does not end"
}

end_daemons() {
    local name
    for name in slurmd slurmctld munged; do
        end "$name"
    done
}

explain() {  # NAME MESSAGE: with the last words of a daemon
    echo "error: $2" >&2
    tail -n 5 "$folder/$1.out" "$folder/$1.log" >&2 2>/dev/null || true
    exit 1
}

free_ports() {  # ADDRESS
    python3 - "$1" <<'PYTHON'
import socket
import sys
sockets = [socket.socket() for _ in range(2)]
for s in sockets:
    s.bind((sys.argv[1], 0))
print(*(s.getsockname()[1] for s in sockets))
PYTHON
}

write_conf() {
    local host address bound user controller_port node_port memory_mb
    host="$(hostname -s)"
    address="$(getent ahostsv4 "$host" | awk 'NR == 1 {print $1}' || true)"
    bound=NoCtldInAddrAny,NoInAddrAny
    case "$address" in
        127.*) ;;
        "")
            address=127.0.0.1 bound=""
            echo "note: listens on all addresses; give $host 127.0.0.1 in /etc/hosts" >&2
            ;;
        *) echo "note: listens on $address; give $host 127.0.0.1 in /etc/hosts" >&2 ;;
    esac
    user="$(id -un)"
    read -r controller_port node_port <<<"$(free_ports "$address")"
    memory_mb=$(awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
    cat >"$SLURM_CONF" <<CONF
ClusterName=dev
SlurmctldHost=$host($address)
SlurmctldPort=$controller_port
SlurmdPort=$node_port
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=$requeue_s
CredType=cred/munge
SlurmUser=$user
SlurmdUser=$user
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/linux
AccountingStorageType=accounting_storage/none
MpiDefault=none
GresTypes=gpu
SchedulerParameters=sched_interval=5,bf_interval=5
${bound:+CommunicationParameters=$bound}
KillWait=60
SlurmctldLogFile=$folder/slurmctld.log
SlurmctldPidFile=$folder/slurmctld.own.pid
StateSaveLocation=$folder/state
SlurmdLogFile=$folder/slurmd.log
SlurmdPidFile=$folder/slurmd.own.pid
SlurmdSpoolDir=$folder/spool
NodeName=$host NodeAddr=$address CPUs=16 RealMemory=$memory_mb State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
}

node_is_up() {  # a state with a mark (idle*) does not answer
    is_ours "$(pid_of slurmd)" && sinfo --noheader --format=%T | grep -Eqx "idle|mixed|allocated|completing"
}

start_node() {
    local srun_waits
    sed -i 's/^\(CommunicationParameters=NoCtldInAddrAny\)$/\1,NoInAddrAny/' "$SLURM_CONF"
    launch slurmd slurmd -D -f "$SLURM_CONF"
    wait_for 60 node_is_up || explain slurmd "the node did not come up within 60 s"
    # slurmd has read the file. An srun reads it too, and waits for its tasks on the same address; if
    # that is 127.0.1.1 they answer to 127.0.0.1, so it must listen on all addresses while it lasts.
    srun_waits="$(sed -n 's/.* NodeAddr=\([^ ]*\) .*/\1/p' "$SLURM_CONF")"
    case "$srun_waits" in
        127.0.0.1) ;;
        127.*) sed -i 's/,NoInAddrAny$//' "$SLURM_CONF" ;;
    esac
}

start() {
    local tool
    for tool in munged munge slurmctld slurmd sinfo; do
        command -v "$tool" >/dev/null ||
            fail "no $tool: .ci/system_packages.sh slurm (Debian: slurm-wlm and munge)"
    done
    if is_ours "$(pid_of slurmctld)"; then
        echo "already running in $folder" >&2
        echo "export SLURM_CONF=$SLURM_CONF"
        return
    fi
    [ "${#folder}" -le 80 ] || fail "$folder: too long a path for a socket; set DEV_CLUSTER"
    if [ -e "$folder" ] && [ ! -e "$SLURM_CONF" ]; then
        fail "$folder is there and is no cluster's; set DEV_CLUSTER"
    fi
    rm -rf "$folder"
    mkdir -p "$folder"
    chmod 755 "$folder"
    mkdir "$folder/state" "$folder/spool"
    write_conf
    (umask 077 && head -c 128 /dev/urandom >"$folder/munge.key")
    launch munged munged --foreground --force --socket="$folder/munge.socket" \
        --key-file="$folder/munge.key" --log-file="$folder/munged.log" \
        --pid-file="$folder/munged.own.pid" --seed-file="$folder/munge.seed"
    works() { munge --no-input --socket="$folder/munge.socket" | unmunge --socket="$folder/munge.socket"; }
    wait_for 20 works || explain munged "munge did not start within 20 s"
    launch slurmctld slurmctld -D -c -f "$SLURM_CONF"
    wait_for 30 scontrol ping || explain slurmctld "slurmctld did not start within 30 s"
    start_node
    echo "export SLURM_CONF=$SLURM_CONF"
}

stop() {
    [ -e "$SLURM_CONF" ] || { echo "not running in $folder"; return; }
    if is_ours "$(pid_of slurmctld)" && is_ours "$(pid_of slurmd)"; then
        timeout 20 squeue --noheader --format=%A | sort -u | xargs -r timeout 20 scancel || true
        no_jobs() { [ -z "$(squeue --noheader)" ]; }
        wait_for 70 no_jobs || echo "note: jobs are still there; they are killed" >&2
    fi
    end_daemons
    local pid
    # What is left of a job names the folder of its node.
    for pid in $(pgrep -u "$(id -u)" slurmstepd || true); do
        if tr '\0' '\n' 2>/dev/null <"/proc/$pid/environ" | grep -qxF "SLURM_CONF=$SLURM_CONF"; then
            kill -9 "$pid" 2>/dev/null || true
        fi
    done
    rm -rf "$folder"
    echo "stopped, $folder removed"
}

status() {
    is_ours "$(pid_of slurmctld)" || { echo "not running in $folder"; return 1; }
    echo "export SLURM_CONF=$SLURM_CONF"
    timeout 20 sinfo --format='node %n: %T, %c CPUs' --noheader
    timeout 20 squeue
}

case "${1:-}" in
    start)
        trap '[ $? -eq 0 ] || end_daemons' EXIT
        start
        ;;
    stop) stop ;;
    status) status ;;
    stop-node) end slurmd ;;
    start-node) is_ours "$(pid_of slurmd)" || start_node ;;
    *) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 2 ;;
esac
