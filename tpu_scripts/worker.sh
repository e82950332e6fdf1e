#!/usr/bin/env bash
# Runs on a training host; the other scripts call it over SSH, a container calls `task`.
#
#   worker.sh setup                  make ~/jopt-env
#   worker.sh pull                   this host owns the run folder: bring it from the
#                                    bucket where it is not there, and copy it back later
#   worker.sh start -- COMMAND...    start COMMAND --workdir=FOLDER, detached
#   worker.sh task -- COMMAND...     the same in the foreground, after a pull on the first
#                                    host; exits with COMMAND's code
#   worker.sh state                  one line: jopt-worker HOST absent|running|saving|
#                                    exited CODE|gone
#   worker.sh stop TERM|KILL         send the signal to COMMAND
#   worker.sh push                   copy the run folder to the bucket now
#   worker.sh copy PID               the same every SYNC_SECS, while this process lives
#   worker.sh log LINES              the end of the log
#
# Environment: RUN_NAME BUCKET; SHARED_DIR (else ~/runs) holds the run folder; SYNC_SECS
# (600) between two copies; FORWARD_TERM=1 where a stop signal reaches only this script,
# as in a container. On a machine that goes down every process gets it, and jopt takes a
# second one for an order to leave at once.
set -euo pipefail

if [ $# = 0 ] || [ "$1" = -h ] || [ "$1" = --help ]; then
  sed -n '2,/^[^#]/p' "$0" | sed -n 's/^# \{0,1\}//p'
  exit 0
fi
verb=$1
shift

RUN_NAME=${RUN_NAME:-} BUCKET=${BUCKET:-} SYNC_SECS=${SYNC_SECS:-600}
state=$HOME/.jopt/$RUN_NAME
folder=${SHARED_DIR:-$HOME/runs}/$RUN_NAME
log=$HOME/logs/$RUN_NAME.$HOSTNAME.log
remote=gs://$BUCKET/$RUN_NAME

say() { printf '%s %s: %s\n' "$(date -u +%FT%TZ)" "$HOSTNAME" "$*"; }

listed() { # PATTERN: objects in the bucket; none is no error, a failed question is one
  local out
  if out=$(gcloud storage ls "$1" 2>&1); then
    printf '%s\n' "$out"
  elif ! grep -q 'matched no objects' <<<"$out"; then
    printf '%s\n' "$out" >&2
    return 1
  fi
}

good_python() { # whether this interpreter can run jopt
  "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
    >/dev/null 2>&1
}

setup() {
  local python env=$HOME/jopt-env
  if ! good_python "$env/bin/python"; then
    for python in ${REMOTE_PYTHON:-python3.14 python3.13 python3.12 python3.11 python3}; do
      if good_python "$python"; then
        "$python" -m venv --clear "$env"
        break
      fi
    done
  fi
  if ! good_python "$env/bin/python"; then
    say "no Python 3.11 or newer here: uv fetches one"
    python3 -m pip install -q --user uv
    python3 -m uv venv -q --seed --python 3.12 "$env"
  fi
  cd "$HOME/jopt"
  "$env/bin/pip" install -q -c constraints.txt -e ".[${EXTRAS:-tpu,data}]"
  say "$("$env/bin/python" --version), jopt[${EXTRAS:-tpu,data}] is installed"
}

pull() {
  local found
  mkdir -p "$state" "$(dirname "$folder")"
  touch "$state/owner"
  if [ -e "$folder/config.json" ]; then
    say "goes on from $folder"
    return
  fi
  if [ -z "$BUCKET" ]; then
    say "$folder is new, and there is no BUCKET"
    return
  fi
  found=$(listed "$remote/config.json")
  if [ -z "$found" ]; then
    say "$remote is new"
    return
  fi
  # Under another name until all of it is here.
  rm -rf "$folder.partial"
  mkdir "$folder.partial"
  gcloud storage rsync --recursive --exclude='^logs/' "$remote" "$folder.partial"
  if [ -d "$folder" ]; then
    rm -f "$folder/.lock"
    rmdir "$folder"
  fi
  mv "$folder.partial" "$folder"
  say "$folder is as $remote was"
}

# One at a time. Whatever moment it is ended at, the bucket can be resumed from.
push() {
  [ -n "$BUCKET" ] && [ -d "$folder" ] || return 0
  (
    flock 8 &&
      printf '%s\0' config.json metrics.jsonl | push_files &&
      push_steps &&
      small_files | push_files
  ) 8>>"$state/push.lock"
}

# Everything but checkpoints, the lock and what is being written, which has a hidden name
# until it is whole. So whatever else jopt comes to write into a run folder is copied too.
small_files() { # names, each ended by a zero byte
  cd "$folder" && find . \( -path ./checkpoints -o -name '.?*' \) -prune -o -type f -print0
}

push_files() ( # names on stdin: copies as of now, since training goes on writing
  cd "$folder" && staging=$(mktemp -d) && code=0 || return
  while IFS= read -rd '' name; do # what has gone since it was named is no failure
    [ ! -e "$name" ] || cp --parents "$name" "$staging" || [ ! -e "$name" ] || code=1
  done
  gcloud storage rsync --recursive "$staging" "$remote" || code=$?
  rm -rf "$staging"
  return "$code"
)

# A step never changes once its manifest is there. It is copied once, the manifest last,
# so a step that is complete in the bucket is complete; older ones that training has
# deleted go after that.
push_steps() {
  local there manifest step here=() newest=-1
  there=$(listed "$remote/checkpoints/*/manifest.json") || return 1
  for manifest in "$folder"/checkpoints/*/manifest.json; do
    step=$(basename "$(dirname "$manifest")")
    [[ $step =~ ^[0-9]+$ ]] || continue
    here+=("$step")
    [ "$step" -le "$newest" ] || newest=$step
    ! grep -qF "/checkpoints/$step/manifest.json" <<<"$there" || continue
    push_step "$step" || [ ! -e "$manifest" ] || return 1
  done
  while read -r step; do
    if [[ " ${here[*]} " != *" $step "* ]] && [ "$step" -lt "$newest" ]; then
      gcloud storage rm "$remote/checkpoints/$step/**" || return 1
    fi
  done < <(sed -n 's|.*/checkpoints/\([0-9]*\)/manifest.json$|\1|p' <<<"$there")
}

push_step() { # STEP
  local from=$folder/checkpoints/$1 to=$remote/checkpoints/$1
  gcloud storage rsync --recursive --exclude='^manifest\.json$' "$from" "$to" &&
    gcloud storage cp "$from/manifest.json" "$to/manifest.json"
}

push_log() { # under a name of its own for each start: a new machine has the old name
  [ -n "$BUCKET" ] && [ -f "$log" ] || return 0
  gcloud storage cp "$log" \
    "$remote/logs/$RUN_NAME.$HOSTNAME.$(cat "$state/started").log"
}

copy_all() { # what this host has to copy
  if [ -e "$state/owner" ]; then push || return 1; fi
  push_log
}

copy_now_and_then() { # until the job of process $1 has ended
  local never=$state/never
  [ -p "$never" ] || mkfifo "$never"
  exec 7<>"$never"
  while kill -0 "$1" 2>/dev/null; do
    # A wait without a process of its own, which would be left behind.
    read -rt "$SYNC_SECS" -u 7 || true
    copy_all >/dev/null || say "the bucket could not be written; tried again later"
  done
}

# The lock is held as long as the job or the command lives. Looking shares it.
locked() { ! flock -n -s "$state/lock" true; }

stop_command() { # SIGNAL: to the command and what it has started
  kill -"$1" -- "-$(cat "$state/training")"
}

training="" told=0
tell() { # a stop signal has come; the command hears of it once, if it has to hear it here
  if [ "${FORWARD_TERM:-0}" = 1 ] && [ -n "$training" ] && [ "$told" -lt 2 ]; then
    told=2
    stop_command TERM || true
  elif [ "$told" = 0 ]; then
    told=1
  fi
}

job() { # COMMAND...
  local copier code
  trap tell TERM INT
  say "code $(cat CODE_VERSION 2>/dev/null || echo unknown): $*"
  set -m # the command gets a process group of its own, which stop_command signals
  "$@" --workdir="$folder" &
  echo $! >"$state/training"
  training=$!
  set +m
  [ "$told" = 0 ] || tell
  (
    trap - TERM INT
    copy_now_and_then $$
  ) 9>&- &
  copier=$!
  while :; do
    code=0
    wait "$training" || code=$?
    # A signal that is handled here ends the wait as well.
    kill -0 "$training" 2>/dev/null || break
  done
  # A signal before training was ready to take it.
  [ "$told" = 0 ] || [ "$code" != 143 ] || code=75
  say "the command ended with code $code"
  touch "$state/saving"
  kill "$copier" 2>/dev/null || true
  if ! copy_all; then
    say "the bucket could not be written: what is in $remote is not the newest"
    [ "$code" != 0 ] || code=74
  fi
  echo "$code" >"$state/code.new"
  mv "$state/code.new" "$state/code"
  return "$code"
}

begin() { # takes the lock, on descriptor 9, for whoever inherits it
  mkdir -p "$state" "$HOME/logs" "$(dirname "$folder")"
  exec 9>>"$state/lock"
  flock -w 2 9 || return 1 # `state` may be looking
  rm -f "$state/code" "$state/saving" "$state/training"
  date -u +%Y%m%dT%H%M%SZ >"$state/started"
  export PATH=$HOME/jopt-env/bin:$PATH
  [ ! -d "$HOME/jopt" ] || cd "$HOME/jopt"
}

script=$(cd "$(dirname "$0")" && pwd)/$(basename "$0")
[ "${1:-}" != -- ] || shift
case $verb in
  setup) setup ;;
  pull) pull ;;
  start)
    if begin; then
      nohup setsid bash "$script" job "$@" </dev/null >>"$log" 2>&1 &
      say "started; the log is $log"
    else
      say "$RUN_NAME runs here already"
    fi
    ;;
  job) job "$@" ;;
  task)
    begin || {
      say "$RUN_NAME runs here already"
      exit 1
    }
    exec > >(tee -a "$log") 2>&1
    tee=$!
    # As GKE numbers the pods of slices.
    if [ "${TPU_WORKER_ID:-0}" = 0 ] && [ "${MEGASCALE_SLICE_ID:-0}" = 0 ]; then pull; fi
    code=0
    job "$@" || code=$?
    exec >&- 2>&-
    wait "$tee"
    exit "$code"
    ;;
  state)
    if [ ! -e "$state/started" ]; then
      word=absent
    elif [ -e "$state/code" ]; then
      word="exited $(cat "$state/code")"
    elif locked; then
      word=running
      [ ! -e "$state/saving" ] || word=saving
    elif [ -e "$state/code" ]; then # written between the two looks
      word="exited $(cat "$state/code")"
    else
      word=gone
    fi
    printf 'jopt-worker %s %s\n' "$HOSTNAME" "$word"
    ;;
  stop)
    if locked && [ -e "$state/saving" ]; then
      say "$RUN_NAME has ended and copies its last files"
    elif locked && [ -e "$state/training" ]; then
      stop_command "$1" && say "sent $1"
    else
      say "$RUN_NAME does not run here"
    fi
    ;;
  push) copy_all ;;
  copy) copy_now_and_then "$1" ;;
  log) tail -n "$1" "$log" ;;
  *)
    echo "worker.sh: unknown word $verb; -h says what there is" >&2
    exit 2
    ;;
esac
