#!/usr/bin/env bash
# Sourced by the other scripts: settings, errors, the wrapper around every outside call.
#
# The caller has set -euo pipefail. Its own comment block is its help text.
set -euo pipefail

if [ "${BASH_VERSINFO[0]}" -lt 5 ]; then
  echo "bash $BASH_VERSION is too old; 5 or newer is expected" >&2
  exit 2
fi

# shellcheck disable=SC2034 # used where this file is sourced
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec 3>&1 # what is said to the user goes here, also from inside $(...)

# Every setting: an environment variable, or the flag of its name in small letters.
SETTINGS="PROJECT ZONE TPU_NAME QR ACCELERATOR_TYPE RUNTIME_VERSION NUM_SLICES CAPACITY
  BUCKET RUN_NAME SHARED_DIR SYNC_SECS EXTRAS REMOTE_PYTHON POLL_SECS BACKOFF_SECS
  MAX_RETRIES DELETE_WHEN_DONE DRY_RUN"

usage() { # the comment block at the top of the script that runs
  sed -n '2,/^[^#]/p' "$0" | sed -n 's/^# \{0,1\}//p'
}

say() { printf '%s %s\n' "$(date -u +%FT%TZ)" "$*" >&3; }

die() { # MESSAGE: bad usage or settings
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 2
}

quote() { # WORD...: one line that a shell reads back as these words
  local line
  printf -v line '%q ' "$@"
  printf '%s\n' "${line% }"
}

run() { # WORD...: every call of an outside program; with DRY_RUN=1 only printed
  if [ "$DRY_RUN" = 1 ]; then
    quote "$@" >&3
  else
    "$@"
  fi
}

# Leaves what is no setting in `rest`, and what stands after -- in `command`.
parse() { # WORD...
  local word name
  rest=() command=()
  while [ $# -gt 0 ]; do
    word=$1
    shift
    case $word in
      -h | --help)
        usage
        exit 0
        ;;
      --)
        # shellcheck disable=SC2034 # as above
        command=("$@")
        break
        ;;
      --dry_run) DRY_RUN=1 ;;
      --*=*)
        name=${word#--}
        name=${name%%=*}
        name=${name^^}
        case " ${SETTINGS//$'\n'/ } " in
          *" $name "*) printf -v "$name" '%s' "${word#*=}" ;;
          *) rest+=("$word") ;;
        esac
        ;;
      *) rest+=("$word") ;;
    esac
  done
  DRY_RUN=${DRY_RUN:-0} NUM_SLICES=${NUM_SLICES:-1} CAPACITY=${CAPACITY:-on-demand}
  POLL_SECS=${POLL_SECS:-30} BACKOFF_SECS=${BACKOFF_SECS:-60}
  MAX_RETRIES=${MAX_RETRIES:-3} DELETE_WHEN_DONE=${DELETE_WHEN_DONE:-0}
  SHARED_DIR=${SHARED_DIR:-} SYNC_SECS=${SYNC_SECS:-600}
  EXTRAS=${EXTRAS:-tpu,data} REMOTE_PYTHON=${REMOTE_PYTHON:-}
  QR=${QR:-${TPU_NAME:-}}
  export PROJECT ZONE TPU_NAME QR ACCELERATOR_TYPE RUNTIME_VERSION NUM_SLICES CAPACITY \
    BUCKET RUN_NAME SHARED_DIR SYNC_SECS EXTRAS REMOTE_PYTHON POLL_SECS BACKOFF_SECS \
    MAX_RETRIES DELETE_WHEN_DONE DRY_RUN
  local number
  for number in NUM_SLICES POLL_SECS BACKOFF_SECS MAX_RETRIES SYNC_SECS; do
    [[ ${!number} =~ ^[0-9]+$ ]] ||
      die "$number=${!number} is not a whole number"
  done
  [ "$NUM_SLICES" -ge 1 ] || die "NUM_SLICES=$NUM_SLICES; at least 1 is expected"
  case $CAPACITY in
    on-demand | spot | reserved) ;;
    *) die "CAPACITY=$CAPACITY; on-demand, spot or reserved is expected" ;;
  esac
}

no_arguments() { # for scripts that take settings alone
  [ ${#rest[@]} = 0 ] || die "unexpected argument ${rest[0]}; -h says what there is"
}

need() { # NAME...: settings that have no default; all that are missing are named
  local name missing=()
  for name in "$@"; do
    [ -n "${!name:-}" ] || missing+=("$name")
  done
  [ ${#missing[@]} = 0 ] || die "not set: ${missing[*]}
  export ${missing[0]}=VALUE or pass --${missing[0],,}=VALUE; env.example explains all"
  for name in "$@"; do
    case $name in
      RUN_NAME | TPU_NAME | BUCKET)
        [[ ${!name} =~ ^[a-z0-9][a-z0-9._-]*$ ]] || die "$name=${!name} cannot be used
  small letters, digits and . _ - are expected (for BUCKET: its name, without gs://)"
        ;;
    esac
  done
}

runtime_version() { # of ACCELERATOR_TYPE, unless RUNTIME_VERSION says otherwise
  if [ -n "${RUNTIME_VERSION:-}" ]; then
    printf '%s\n' "$RUNTIME_VERSION"
    return
  fi
  case $ACCELERATOR_TYPE in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) echo tpu-ubuntu2204-base ;;
  esac
}

# The state of the queued resource; ABSENT where there is none, UNKNOWN where the
# question itself failed: a network that is down must not look like a lost machine.
queued_state() {
  local state error
  error=$(mktemp)
  if state=$(run gcloud compute tpus queued-resources describe "$QR" \
    --zone="$ZONE" --project="$PROJECT" --format='value(state.state)' 2>"$error"); then
    printf '%s\n' "${state:-UNKNOWN}"
  elif grep -qiE 'NOT_FOUND|not found' "$error"; then
    echo ABSENT
  else
    cat "$error" >&2
    echo UNKNOWN
  fi
  rm -f "$error"
}

delete_queued() { # with its nodes; the name is exact, nothing is matched
  run gcloud compute tpus queued-resources delete "$QR" \
    --zone="$ZONE" --project="$PROJECT" --force --quiet
}

nodes() { # one TPU VM a line; the service appends -0, -1, ... to a node prefix
  local slice
  if [ "$NUM_SLICES" = 1 ]; then
    printf '%s\n' "$TPU_NAME"
  else
    for ((slice = 0; slice < NUM_SLICES; slice++)); do
      printf '%s-%d\n' "$TPU_NAME" "$slice"
    done
  fi
}

remote() { # NODE WORKER WORD...: a command on a host; WORKER is a number or all
  local node=$1 worker=$2
  shift 2
  run gcloud compute tpus tpu-vm ssh "$node" --zone="$ZONE" --project="$PROJECT" \
    --worker="$worker" --command="$(quote "$@")"
}

copy() { # NODE FILE NAME: a file into the home folder of every host
  run gcloud compute tpus tpu-vm scp "$2" "$1:$3" --zone="$ZONE" --project="$PROJECT" \
    --worker=all
}

# Slices at the same time, since each may take minutes; fails when one of them does.
for_every_slice() { # FUNCTION WORD...: FUNCTION NODE WORD...
  local function=$1 node failed=0 pid pids=()
  shift
  for node in $(nodes); do
    if [ "$DRY_RUN" = 1 ]; then
      "$function" "$node" "$@"
    else
      "$function" "$node" "$@" &
      pids+=($!)
    fi
  done
  for pid in "${pids[@]}"; do
    wait "$pid" || failed=$?
  done
  return "$failed"
}

on_all_workers() { # WORD...: on every host of every slice
  for_every_slice remote_all "$@"
}

# shellcheck disable=SC2317 # called by name
remote_all() { # NODE WORD...
  remote "$1" all "${@:2}"
}

as_worker() { # VERB WORD...: the words that run worker.sh on a host, in `words`
  words=(env "RUN_NAME=${RUN_NAME:-}" "BUCKET=${BUCKET:-}" "SHARED_DIR=$SHARED_DIR"
    "SYNC_SECS=$SYNC_SECS" "EXTRAS=$EXTRAS" "REMOTE_PYTHON=$REMOTE_PYTHON"
    bash jopt/tpu_scripts/worker.sh "$@")
}

add_replicas() { # to `command`: with several slices each is a replica of the mesh
  local word
  for word in "${command[@]}"; do
    case $word in
      --workdir | --workdir=*) die "$word: the scripts choose the work folder, from
  RUN_NAME, so that it can go to the bucket and come back; leave it out" ;;
      --config.mesh.replica*) return 0 ;;
    esac
  done
  [ "$NUM_SLICES" = 1 ] || command+=(--config.mesh.replica="$NUM_SLICES")
}

# The words, in `words`, that train in a container: the first host has the run folder, and
# only the first process of a container is told to stop.
in_container() { # COMMAND...
  words=(env "RUN_NAME=$RUN_NAME" "BUCKET=$BUCKET" "SHARED_DIR=$SHARED_DIR"
    "SYNC_SECS=$SYNC_SECS" FORWARD_TERM=1 bash /jopt/tpu_scripts/worker.sh task --
    "$@")
}

worker_states() { # one line for each host, `HOST WORD [CODE]`; fails if one is silent
  local out code=0
  as_worker state
  out=$(on_all_workers "${words[@]}") || code=$?
  printf '%s\n' "$out" | sed -n 's/^jopt-worker //p'
  return "$code"
}
