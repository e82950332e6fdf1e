# The templates for Slurm and GKE, with the same contract.
load helpers

slurm() { # CODE...: what srun ends with, one launch each
  bin=$BATS_TEST_TMPDIR/bin
  mkdir -p "$bin"
  printf '%s\n' "$@" >"$STUB/srun.code"
  cat >"$bin/srun" <<'END'
#!/bin/bash
# Runs the tasks here, and ends with the next code of the list.
while [[ $1 == --* ]]; do shift; done
for ((i = 0; i < SLURM_NTASKS; i++)); do SLURM_PROCID=$i "$@"; done
code=$(head -n 1 "$STUB/srun.code")
sed -i 1d "$STUB/srun.code"
exit "$code"
END
  cat >"$bin/scontrol" <<'END'
#!/bin/bash
echo "scontrol $*" >>"$STUB/log"
[ "$1" != show ] || printf 'node3\nnode4\n'
END
  cat >"$bin/python" <<'END'
#!/bin/bash
echo "$*" >>"$STUB/tasks"
END
  chmod +x "$bin"/*
  export PATH=$bin:$PATH SLURM_JOB_ID=77 SLURM_NTASKS=2 SLURM_JOB_NODELIST='node[3-4]'
  export SLURM_SUBMIT_DIR=$scripts/.. SHARED_DIR=$BATS_TEST_TMPDIR/runs
  export HOME=$BATS_TEST_TMPDIR
}

@test "slurm: ids and their number come from SLURM_*, the work folder from RUN_NAME" {
  slurm 0
  run -0 bash "$scripts/slurm.sbatch" python train.py --config='a b.py'
  flags="--workdir=$SHARED_DIR/run1 --coordinator=node3:12355 --num_processes=2"
  diff "$STUB/tasks" - <<END
train.py --config=a b.py $flags --process_id=0
train.py --config=a b.py $flags --process_id=1
END
  [ "$(calls 'scontrol requeue')" = 0 ]
}

@test "slurm: 75 goes back into the queue, others are tried again and counted" {
  slurm 1 76 75
  run -75 bash "$scripts/slurm.sbatch" python train.py
  logged "scontrol requeue 77"
  [ "$(wc -l <"$STUB/tasks")" = 6 ]
  slurm 1 76 3
  MAX_RETRIES=2 run -3 bash "$scripts/slurm.sbatch" python train.py
  contains "code 3, failures 3/2"
}

@test "slurm: with BUCKET the folder goes there and comes back" {
  slurm 0
  mkdir -p "$SHARED_DIR/run1"
  echo '{}' >"$SHARED_DIR/run1/config.json"
  run -0 bash "$scripts/slurm.sbatch" python train.py
  cmp "$SHARED_DIR/run1/config.json" "$STUB/bucket/my-bucket/run1/config.json"
  rm -r "$SHARED_DIR/run1"
  slurm 0
  run -0 bash "$scripts/slurm.sbatch" python train.py
  [ -e "$SHARED_DIR/run1/config.json" ]
}

@test "slurm: it is copied while training goes on" {
  slurm 0
  # It ends well only if its folder comes to the bucket meanwhile.
  cat >"$BATS_TEST_TMPDIR/bin/python" <<'END'
#!/bin/bash
mkdir -p "$SHARED_DIR/run1"
echo '{}' >"$SHARED_DIR/run1/config.json"
for ((look = 0; look < 300; look++)); do
  [ ! -e "$STUB/bucket/my-bucket/run1/config.json" ] || exit 0
  sleep 0.1
done
echo 3 >"$STUB/srun.code"
END
  SYNC_SECS=1 MAX_RETRIES=0 run -0 bash "$scripts/slurm.sbatch" python train.py
  [[ $output != *Terminated* ]]
}

@test "slurm: a run that is done but not in the bucket is not done" {
  slurm 0
  mkdir -p "$SHARED_DIR/run1"
  echo '{}' >"$SHARED_DIR/run1/config.json"
  codes rsync 1
  MAX_RETRIES=0 run -74 bash "$scripts/slurm.sbatch" python train.py
  contains "the bucket could not be written"
  slurm 0 0
  codes rsync 1 0
  MAX_RETRIES=1 run -0 bash "$scripts/slurm.sbatch" python train.py
  contains "code 74, failures 1/1"
}

@test "slurm: help, and settings that are missing" {
  run -0 bash "$scripts/slurm.sbatch" -h
  contains "A run on a Slurm cluster"
  unset RUN_NAME
  run -2 bash "$scripts/slurm.sbatch" python train.py
  contains "not set: RUN_NAME"
}

@test "gke: the manifest is what Kubernetes reads, and keeps the exit codes" {
  export IMAGE=i CLAIM=c TPU_SELECTOR=tpu-v6e-slice TOPOLOGY=4x4 HOSTS=4 CHIPS=4
  run -0 "$scripts/gke.sh" --num_slices=2 --max_retries=5 -- \
    python train.py --config='a "b" \c.py'
  contains "maxRestarts: 5"
  contains "replicas: 2"
  contains "completions: 4"
  contains '"RUN_NAME=run1", "BUCKET=my-bucket", "SHARED_DIR=/shared/runs"'
  contains '"python", "train.py", "--config=a \"b\" \\c.py", "--config.mesh.replica=2"]'
  printf '%s\n' "$output" >"${MANIFEST:-/dev/null}"
  unset CLAIM
  run -2 "$scripts/gke.sh" -- true
  contains "not set: CLAIM"
}

@test "xpk: one call, and a dry run makes none" {
  mkdir "$BATS_TEST_TMPDIR/bin"
  printf '#!/bin/bash\nprintf "%%s\\n" "$@" >"$STUB/xpk"\n' >"$BATS_TEST_TMPDIR/bin/xpk"
  chmod +x "$BATS_TEST_TMPDIR/bin/xpk"
  export PATH=$BATS_TEST_TMPDIR/bin:$PATH CLUSTER=c IMAGE=i
  run -0 "$scripts/xpk.sh" --dry_run -- python train.py
  contains "xpk workload create --cluster=c"
  [ ! -e "$STUB/xpk" ]
  run -0 "$scripts/xpk.sh" --num_slices=2 -- python train.py
  grep -qx -- '--num-slices=2' "$STUB/xpk"
  grep -qx -- '--workload=run1' "$STUB/xpk"
  grep -q -- '^--command=env RUN_NAME=run1 .*worker.sh task -- python train.py' \
    "$STUB/xpk"
}

@test "a container: the first host has the folder, a stop signal is passed on once" {
  export HOME=$BATS_TEST_TMPDIR/pod HOSTNAME=pod-0 FORWARD_TERM=1 SHARED_DIR=$HOME/runs
  mkdir -p "$HOME"
  "$scripts/worker.sh" task -- bash -c \
    'trap "echo TERM >>\"$HOME/signals\"; exit 75" TERM
     mkdir -p "$SHARED_DIR/run1"; echo {} >"$SHARED_DIR/run1/config.json"
     touch "$HOME/ready"; while :; do sleep 0.1; done' >"$HOME/out" &
  pod=$!
  until [ -e "$HOME/ready" ]; do sleep 0.05; done
  kill -TERM "$pod"
  code=0
  wait "$pod" || code=$?
  [ "$code" = 75 ]
  [ "$(cat "$HOME/signals")" = TERM ]
  [ -e "$STUB/bucket/my-bucket/run1/config.json" ]
  grep -q "the command ended with code 75" "$HOME/out"
}

@test "a stop signal before training can take it is a 75 too" {
  export HOME=$BATS_TEST_TMPDIR/pod HOSTNAME=pod-0 FORWARD_TERM=1
  mkdir -p "$HOME"
  "$scripts/worker.sh" task -- bash -c 'touch "$HOME/ready"; sleep 30; true' \
    >"$HOME/out" &
  pod=$!
  until [ -e "$HOME/ready" ]; do sleep 0.05; done
  kill -TERM "$pod"
  code=0
  wait "$pod" || code=$?
  cat "$HOME/out"
  [ "$code" = 75 ]
}
