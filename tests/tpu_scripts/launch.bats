# launch, status, logs, kill and what runs on the hosts.
load helpers

# A checkpoint as jopt leaves it, as far as the scripts look at it.
step() { # FOLDER STEP
  mkdir -p "$1/checkpoints/$2/default/d"
  echo "data $2" >"$1/checkpoints/$2/default/d/0"
  echo "manifest $2" >"$1/checkpoints/$2/manifest.json"
}

run_folder() { # FOLDER
  mkdir -p "$1"
  for file in config.json metrics.jsonl status.json; do echo "$file" >"$1/$file"; done
  echo held >"$1/.lock"
}

machines() { # HOSTS
  act_out "$1"
  "$scripts/create.sh" >/dev/null
}

until_ended() { # HOST: its job
  local looks=0
  until "$scripts/status.sh" 2>&1 | grep -q "$1 exited"; do
    looks=$((looks + 1))
    [ "$looks" -lt 300 ] || return 1
    sleep 0.05
  done
}

bucket() { echo "$STUB/bucket/my-bucket/run1"; }

@test "the command reaches the hosts word for word" {
  machines 1
  words=("two words" "it's" '"quoted"' '$HOME' '`date`' 'a;b|c&d' '*' '\' '' 'é')
  run -0 "$scripts/launch.sh" -- bash -c 'printf "%s\n" "$@" >"$HOME/words"' name \
    "${words[@]}"
  until_ended pod-w0
  home=$STUB/home/pod-w0
  diff "$home/words" <(printf '%s\n' "${words[@]}" "--workdir=$home/runs/run1")
}

@test "it runs detached, on every host, with a log that goes to the bucket" {
  machines 2
  run -0 "$scripts/launch.sh" --shared_dir="$BATS_TEST_TMPDIR/shared" -- \
    bash -c 'echo "I am $STUB_WORKER with $0"; sleep 0.5'
  contains "started; the log is $STUB/home/pod-w1/logs/run1.pod-w1.log"
  run -0 "$scripts/status.sh"
  contains "pod: ACTIVE"
  contains "pod-w0 running"
  until_ended pod-w0
  until_ended pod-w1
  run -0 "$scripts/logs.sh" --worker=1
  contains "I am 1 with --workdir=$BATS_TEST_TMPDIR/shared/run1"
  run -0 "$scripts/logs.sh" --from_bucket
  contains "I am 0 with"
  contains "I am 1 with"
}

@test "several hosts need a folder that they share" {
  machines 2
  run -2 "$scripts/launch.sh" -- true
  contains "pod has 2 hosts and SHARED_DIR is not set"
  [ "$(calls worker.sh)" = 0 ]
}

@test "each slice is a replica, unless the command says otherwise" {
  run -0 "$scripts/launch.sh" --num_slices=2 --shared_dir=/s -- python train.py
  [ "$(calls 'ssh pod-[01] .*start -- python train.py --config.mesh.replica=2')" = 2 ]
  run -0 "$scripts/launch.sh" --num_slices=2 --shared_dir=/s -- python train.py \
    --config.mesh.replica=4
  [ "$(calls 'replica=4.$')" = 2 ]
  [ "$(calls 'worker.sh pull')" = 2 ]
  run -0 "$scripts/launch.sh" --shared_dir=/s -- python train.py
  [ "$(calls 'start -- python train.py.$')" = 1 ]
}

@test "the work folder is not the command's to choose" {
  run -2 "$scripts/launch.sh" -- python train.py --workdir=gs://b/x
  contains "--workdir=gs://b/x: the scripts choose the work folder"
  run -2 "$scripts/launch.sh"
  contains "no training command"
  [ ! -s "$STUB/log" ]
}

@test "what runs is not started twice" {
  machines 1
  run -0 "$scripts/launch.sh" -- bash -c 'echo again >>"$HOME/count"; sleep 30'
  run -0 "$scripts/launch.sh" -- bash -c 'echo again >>"$HOME/count"'
  contains "run1 runs here already"
  "$scripts/kill.sh" --now
  until_ended pod-w0
  [ "$(wc -l <"$STUB/home/pod-w0/count")" = 1 ]
}

@test "kill sends TERM once to the command, and its code is kept" {
  machines 1
  run -0 "$scripts/launch.sh" -- bash -c \
    'trap "echo TERM >>\"$HOME/signals\"; sleep 0.3; exit 75" TERM
     touch "$HOME/ready"; while :; do sleep 0.1; done'
  until [ -e "$STUB/home/pod-w0/ready" ]; do sleep 0.05; done
  run -0 "$scripts/kill.sh"
  contains "sent TERM"
  until_ended pod-w0
  run -0 "$scripts/status.sh"
  contains "pod-w0 exited 75"
  [ "$(cat "$STUB/home/pod-w0/signals")" = TERM ]
  run -0 "$scripts/kill.sh"
  contains "does not run here"
}

@test "kill while the last files are copied says so" {
  machines 1
  state=$STUB/home/pod-w0/.jopt/run1
  mkdir -p "$state"
  echo 999999999 >"$state/training"
  touch "$state/saving"
  exec 8>>"$state/lock"
  flock 8
  run -0 "$scripts/kill.sh"
  contains "run1 has ended and copies its last files"
  exec 8>&-
}

@test "when the machine goes down, training is told once and its end is recorded" {
  machines 1
  run -0 "$scripts/launch.sh" -- bash -c \
    'trap "echo TERM >>\"$HOME/signals\"; sleep 0.3; exit 75" TERM
     touch "$HOME/ready"; while :; do sleep 0.1; done'
  home=$STUB/home/pod-w0
  until [ -e "$home/ready" ]; do sleep 0.05; done
  training=$(cat "$home/.jopt/run1/training")
  wrapper=$(ps -o ppid= -p "$training" | tr -d ' ')
  kill -TERM -- "-$wrapper" "-$training" # as the system does: everybody
  until_ended pod-w0
  [ "$(cat "$home/.jopt/run1/code")" = 75 ]
  [ "$(cat "$home/signals")" = TERM ]
}

@test "a job that is killed with its machine is gone, not running" {
  machines 1
  run -0 "$scripts/status.sh"
  contains "pod-w0 absent"
  run -0 "$scripts/launch.sh" -- bash -c 'sleep 30; true'
  home=$STUB/home/pod-w0
  until [ -s "$home/.jopt/run1/training" ]; do sleep 0.05; done
  training=$(cat "$home/.jopt/run1/training")
  wrapper=$(ps -o ppid= -p "$training" | tr -d ' ')
  kill -KILL -- "-$wrapper" "-$training"
  for look in 1 2 3 4 5 6 7 8 9; do
    run -0 "$scripts/status.sh"
    [[ $output != *"pod-w0 gone"* ]] || break
    sleep 0.1
  done
  contains "pod-w0 gone"
}

@test "the run folder goes to the bucket, and comes back on a new machine" {
  machines 1
  made=$BATS_TEST_TMPDIR/made
  run_folder "$made"
  # The scripts know none of these names.
  echo sent >"$made/communication.csv"
  mkdir -p "$made/a folder/inside"
  echo else >"$made/a folder/inside/new file"
  step "$made" 5
  step "$made" 10
  # Of what is being written nothing is copied: it has no manifest, or a hidden name.
  mkdir "$made/checkpoints/15"
  echo half >"$made/checkpoints/15/data"
  echo half >"$made/.report.html.123"
  run -0 "$scripts/launch.sh" -- bash -c \
    'mkdir -p "${1%/*}"; cp -r "$0" "${1#--workdir=}"' "$made"
  until_ended pod-w0
  rm -r "$made/.lock" "$made/.report.html.123" "$made/checkpoints/15"
  diff -r --exclude=logs "$made" "$(bucket)"

  "$scripts/delete.sh" pod
  "$scripts/create.sh"
  run -0 "$scripts/launch.sh" -- bash -c \
    'cd "${0#--workdir=}"; rm -r checkpoints/5
     mkdir -p checkpoints/15; echo "manifest 15" >checkpoints/15/manifest.json'
  contains "runs/run1 is as gs://my-bucket/run1 was"
  until_ended pod-w0
  rm -r "$made/checkpoints/5"
  diff -r --exclude=15 "$made" "$STUB/home/pod-w0/runs/run1"
  # What training deletes goes from the bucket; what is there is not sent again.
  [ -z "$(find "$(bucket)/checkpoints/5" -type f)" ]
  [ -e "$(bucket)/checkpoints/15/manifest.json" ]
  [ "$(calls 'rsync --recursive .*checkpoints/10')" = 1 ]
  # Logs are no part of the run folder.
  [ ! -e "$STUB/home/pod-w0/runs/run1/logs" ]
}

@test "in the bucket a manifest is always the last of its step" {
  machines 1
  run_folder "$BATS_TEST_TMPDIR/made"
  step "$BATS_TEST_TMPDIR/made" 5
  run -0 "$scripts/launch.sh" -- bash -c \
    'mkdir -p "${1%/*}"; cp -r "$0" "${1#--workdir=}"' "$BATS_TEST_TMPDIR/made"
  until_ended pod-w0
  rm -r "$(bucket)"
  # The machine dies between the data and the manifest.
  codes cp 1
  STUB_WORKER=0 HOME=$STUB/home/pod-w0 HOSTNAME=pod-w0 run -1 \
    "$scripts/worker.sh" push
  [ -e "$(bucket)/checkpoints/5/default/d/0" ]
  [ ! -e "$(bucket)/checkpoints/5/manifest.json" ]
  [ ! -e "$(bucket)/status.json" ]
  rm "$STUB/cp.code"
  HOME=$STUB/home/pod-w0 HOSTNAME=pod-w0 run -0 "$scripts/worker.sh" push
  [ -e "$(bucket)/checkpoints/5/manifest.json" ]
}

@test "it is copied while training goes on, by the first host alone" {
  machines 2
  run_folder "$BATS_TEST_TMPDIR/made"
  step "$BATS_TEST_TMPDIR/made" 5
  run -0 "$scripts/launch.sh" --sync_secs=1 --shared_dir="$BATS_TEST_TMPDIR/shared" -- \
    bash -c '[ "$STUB_WORKER" = 1 ] || cp -r "$0" "${1#--workdir=}"; sleep 30' \
    "$BATS_TEST_TMPDIR/made"
  looks=0
  until [ -e "$(bucket)/checkpoints/5/manifest.json" ]; do
    looks=$((looks + 1))
    [ "$looks" -lt 200 ]
    sleep 0.1
  done
  "$scripts/kill.sh" --now
  until_ended pod-w0
  until_ended pod-w1
  [ -e "$STUB/home/pod-w0/.jopt/run1/owner" ]
  [ ! -e "$STUB/home/pod-w1/.jopt/run1/owner" ]
}

@test "a bucket that cannot be read is not an empty one" {
  machines 1
  answers ls "ERROR: 403 no"
  codes ls 1
  run -1 "$scripts/launch.sh" -- true
  contains "403 no"
  [ "$(calls 'worker.sh start')" = 0 ]
}

@test "a run that is done but not in the bucket is not done" {
  machines 1
  run_folder "$BATS_TEST_TMPDIR/made"
  codes rsync 1
  run -0 "$scripts/launch.sh" -- bash -c \
    'mkdir -p "${1%/*}"; cp -r "$0" "${1#--workdir=}"' "$BATS_TEST_TMPDIR/made"
  until_ended pod-w0
  run -0 "$scripts/status.sh"
  contains "pod-w0 exited 74"
  run -0 "$scripts/logs.sh"
  contains "the bucket could not be written"
}

@test "logs and kill say what they do not understand" {
  run -2 "$scripts/logs.sh" --line=3
  contains "unexpected argument --line=3"
  run -2 "$scripts/logs.sh" --slice=2
  contains "NUM_SLICES is 1"
  run -2 "$scripts/kill.sh" now
  contains "unexpected argument now"
}
