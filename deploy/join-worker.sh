#!/bin/sh
# Makes this machine a worker of a cluster.
set -eu

usage() {
    cat <<'TEXT'
Usage: deploy/join-worker.sh HOST --join FILE [--checkpoints FOLDER] [--gpus all|none] [--cpus NUMBER]

HOST is the address of the machine that docker-compose.yml runs on, FILE what deploy/open-cluster has written there
(deploy/secrets/join), FOLDER where the storage for checkpoints is mounted on this machine: the same storage as there.
Where the cluster has its checkpoints in a bucket, FILE says which, and there is no FOLDER.

--gpus all   (default where nvidia-smi is) trials get this machine's GPUs; needs NVIDIA's container toolkit.
--gpus none  trials get processors alone.
--cpus N     how many processors trials get; all of them if not given.

Needs from this machine to HOST: TCP 2377; between all machines: TCP and UDP 7946, UDP 4789, IP protocol 50.
To leave: cd deploy && docker compose down (running trials go on elsewhere), then docker swarm leave.
TEXT
}

fail() {
    echo "deploy/join-worker.sh: $1" >&2
    exit 2
}

host='' join='' checkpoints='' gpus='' cpus=''
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) usage; exit 0 ;;
    --join | --checkpoints | --gpus | --cpus)
        [ $# -ge 2 ] || fail "$1 needs a value."
        case $1 in
        --join) join=$2 ;;
        --checkpoints) checkpoints=$2 ;;
        --gpus) gpus=$2 ;;
        --cpus) cpus=$2 ;;
        esac
        shift
        ;;
    -*) usage >&2; fail "$1 is not known." ;;
    *) [ -z "$host" ] || fail "one HOST is enough."; host=$1 ;;
    esac
    shift
done
[ -n "$host" ] || { usage >&2; exit 2; }
[ -f "$join" ] || fail "--join takes the file that deploy/open-cluster has written on $host (deploy/secrets/join)."
case $cpus in *[!0-9]*) fail "--cpus takes a number." ;; esac
if [ -z "$gpus" ]; then
    gpus=none
    ! command -v nvidia-smi >/dev/null 2>&1 || gpus=all
fi
case $gpus in all) profile=gpu ;; none) profile=cpu ;; *) fail "--gpus takes all or none." ;; esac
value() { # NAME
    sed -n "s/^$1=//p" "$join"
}
swarm_token=$(value SWARM_TOKEN) ray_token=$(value RAY_TOKEN) bucket=$(value BUCKET) bucket_config=$(value BUCKET_CONFIG)
bucket_checksums=$(value BUCKET_CHECKSUMS)
[ -n "$swarm_token" ] && [ -n "$ray_token" ] || fail "$join is not what deploy/open-cluster writes."

if [ -n "$bucket" ]; then
    [ -z "$checkpoints" ] || fail "the cluster has its checkpoints in $bucket; leave --checkpoints out."
else
    case $checkpoints in
    /*) ;;
    *) fail "--checkpoints takes the absolute path of the shared storage on this machine." ;;
    esac
    [ -d "$checkpoints" ] || fail "there is no folder $checkpoints; mount the storage that $host has for checkpoints."
    # Looked at before anything is changed: the control node leaves a note in it, which a worker reads as well.
    [ -f "$checkpoints/.cluster.json" ] || fail "$checkpoints is not the storage that $host has for checkpoints, or the
service there has not been started since deploy/open-cluster: .cluster.json is not in it."
fi

cd "$(dirname "$0")"
umask 077
mkdir -p secrets
secret() { # NAME TEXT; one of an earlier join may not be written to
    rm -f "secrets/$1"
    printf '%s\n' "$2" >"secrets/$1"
    chmod 0444 "secrets/$1"
}
[ -z "$bucket" ] || secret bucket "$bucket_config"
secret ray_token "$ray_token"
set_variable() { # NAME VALUE; what else is set in .env stays
    { grep -v "^$1=" .env 2>/dev/null || true; echo "$1=$2"; } >.env.new
    mv .env.new .env
}
set_variable COMPOSE_FILE "worker.yml${bucket:+:worker-bucket.yml}"
set_variable COMPOSE_PROFILES "$profile"
set_variable SWEEP_CHECKPOINTS "${checkpoints:-unused}"
set_variable SWEEP_WORKER_CPUS "$cpus"
set_variable SWEEP_BUCKET "$bucket"
set_variable SWEEP_BUCKET_CHECKSUMS "$bucket_checksums"
case $(docker info --format '{{.Swarm.LocalNodeState}}') in
active) ;;
*) docker swarm join --token "$swarm_token" "$host:2377" ;;
esac
docker compose up --detach --wait
