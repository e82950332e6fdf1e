# create, wait, delete, setup, sync_code: the machines and what is on them.
load helpers

@test "create asks once, with the right words for each capacity" {
  base="gcloud compute tpus queued-resources create pod --node-id=pod --zone=us-east5-b \
--project=my-project --accelerator-type=v6e-8 --runtime-version=v2-alpha-tpuv6e"
  run -0 "$scripts/create.sh"
  logged "$base"
  [ "$(calls ' create ')" = 1 ]
  rm "$STUB/state"
  run -0 "$scripts/create.sh" --capacity=spot
  logged "$base --spot"
  rm "$STUB/state"
  run -0 "$scripts/create.sh" --capacity=reserved
  logged "$base --reserved"
}

@test "several slices are several nodes" {
  run -0 "$scripts/create.sh" --num_slices=4
  logged "gcloud compute tpus queued-resources create pod --node-count=4 \
--node-prefix=pod --zone=us-east5-b --project=my-project --accelerator-type=v6e-8 \
--runtime-version=v2-alpha-tpuv6e"
}

@test "the runtime follows the accelerator, unless it is given" {
  while read -r accelerator runtime; do
    run -0 "$scripts/create.sh" --dry_run --accelerator_type="$accelerator"
    contains "--accelerator-type=$accelerator --runtime-version=$runtime"
  done <<END
v5litepod-16 v2-alpha-tpuv5-lite
v5p-32 v2-alpha-tpuv5
v6e-256 v2-alpha-tpuv6e
v4-8 tpu-ubuntu2204-base
v3-32 tpu-ubuntu2204-base
END
  run -0 "$scripts/create.sh" --dry_run --runtime_version=mine
  contains "--runtime-version=mine"
}

@test "create leaves alone what is ACTIVE or on its way" {
  for state in ACTIVE ACCEPTED WAITING_FOR_RESOURCES PROVISIONING CREATING; do
    answers describe "$state"
    run -0 "$scripts/create.sh"
    contains "$state"
  done
  [ "$(calls ' create | delete ')" = 0 ]
}

@test "create makes FAILED and SUSPENDED anew, and waits for what is on its way out" {
  echo FAILED >"$STUB/state"
  run -0 "$scripts/create.sh"
  printf '%s\n' SUSPENDING SUSPENDING SUSPENDED >"$STUB/state"
  run -0 "$scripts/create.sh"
  [ "$(calls ' delete pod --zone=us-east5-b --project=my-project --force --quiet$')" = 2 ]
  [ "$(grep -oE ' (delete|create) ' "$STUB/log" | tr -d '\n ')" = \
    deletecreatedeletecreate ]
}

@test "a question that fails is no answer: nothing is created or deleted" {
  answers describe "PERMISSION_DENIED: no"
  codes describe 1
  run -1 "$scripts/create.sh"
  contains "PERMISSION_DENIED"
  [ "$(calls ' create | delete ')" = 0 ]
}

@test "wait follows the states to their end" {
  answers describe ACCEPTED WAITING_FOR_RESOURCES PROVISIONING ACTIVE
  run -0 "$scripts/wait.sh"
  contains "pod is WAITING_FOR_RESOURCES"
  [ "$(calls ' describe ')" = 4 ]
  answers describe PROVISIONING FAILED
  run -1 "$scripts/wait.sh"
  answers describe ACCEPTED SUSPENDED
  run -75 "$scripts/wait.sh"
}

@test "wait bears some silence, not endless silence" {
  answers describe down down ACTIVE
  codes describe 1 1 0
  run -0 "$scripts/wait.sh"
  answers describe down
  codes describe 1
  run -1 "$scripts/wait.sh"
}

@test "delete wants the exact name" {
  answers describe ACTIVE
  run -2 "$scripts/delete.sh"
  contains "delete.sh pod"
  run -2 "$scripts/delete.sh" po
  contains "nothing was deleted"
  [ ! -s "$STUB/log" ]
  run -0 "$scripts/delete.sh" pod
  logged "gcloud compute tpus queued-resources delete pod --zone=us-east5-b \
--project=my-project --force --quiet"
}

@test "delete of what does not exist is a success" {
  run -0 "$scripts/delete.sh" pod
  contains "does not exist"
  [ "$(calls ' delete ')" = 0 ]
}

@test "sync_code sends the checkout to every host, without what git ignores" {
  act_out 2
  "$scripts/create.sh" --num_slices=2
  run -0 "$scripts/sync_code.sh" --num_slices=2
  for host in pod-0-w0 pod-0-w1 pod-1-w0 pod-1-w1; do
    home=$STUB/home/$host
    cmp "$home/jopt/train.py" "$scripts/../train.py"
    [ -x "$home/jopt/tpu_scripts/worker.sh" ]
    [ -s "$home/jopt/CODE_VERSION" ]
    [ ! -e "$home/jopt/.git" ]
    [ -z "$(find "$home/jopt" -name __pycache__)" ]
  done
  # Again: a file that is gone here is gone there.
  touch "$STUB/home/pod-0-w0/jopt/old_file"
  run -0 "$scripts/sync_code.sh" --num_slices=2
  [ ! -e "$STUB/home/pod-0-w0/jopt/old_file" ]
}

@test "setup makes an environment with an interpreter that is new enough" {
  act_out 1
  mkdir "$BATS_TEST_TMPDIR/bin"
  for name in python3.14 python3.13 python3.12 python3.11 python3; do
    # The first two are too old or broken; an environment is a stand-in of one.
    cat >"$BATS_TEST_TMPDIR/bin/$name" <<END
#!/bin/bash
case "$name \$1" in
  python3.1[34]*) exit 1 ;;
  *" -m") mkdir -p "\${@: -1}/bin"
    printf '#!/bin/bash\necho %s\n' $name >"\${@: -1}/bin/python"
    printf '#!/bin/bash\necho "\$PWD" "\$@" >"%s"\n' "$STUB/pip" >"\${@: -1}/bin/pip"
    chmod +x "\${@: -1}/bin/"* ;;
esac
END
  done
  chmod +x "$BATS_TEST_TMPDIR"/bin/*
  "$scripts/create.sh"
  printf 'export PATH=%q:$PATH\n' "$BATS_TEST_TMPDIR/bin" >"$STUB/profile"
  run -0 "$scripts/setup.sh" --extras=tpu
  contains "python3.12, jopt[tpu] is installed"
  [ "$(cat "$STUB/pip")" = \
    "$STUB/home/pod-w0/jopt install -q -c constraints.txt -e .[tpu]" ]
}

@test "a host that fails fails the script" {
  codes ssh-setup 3
  run -3 "$scripts/setup.sh"
  codes ssh-setup 0 4
  run -4 "$scripts/setup.sh" --num_slices=2
}
