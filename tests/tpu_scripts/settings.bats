# Help, settings and dry runs: what every script has.
load helpers

all="create wait setup sync_code launch status logs kill delete babysit"

@test "-h explains each script and calls nothing" {
  for name in $all; do
    run -0 "$scripts/$name.sh" -h
    contains "$name.sh"
    contains "Needs "
  done
  run -0 "$scripts/worker.sh" -h
  contains "worker.sh push"
  [ ! -s "$STUB/log" ]
}

@test "missing settings are named, all of them, and nothing is called" {
  unset PROJECT ZONE TPU_NAME ACCELERATOR_TYPE BUCKET RUN_NAME
  for name in $all; do
    run -2 "$scripts/$name.sh" -- python train.py
    contains "$name.sh: not set: "
    [[ $name = logs || $name = delete ]] || contains "PROJECT ZONE TPU_NAME"
  done
  contains "ACCELERATOR_TYPE BUCKET RUN_NAME"
  export PROJECT=p TPU_NAME=t ACCELERATOR_TYPE=v6e-8
  run -2 "$scripts/create.sh"
  contains "create.sh: not set: ZONE"
  contains "export ZONE=VALUE or pass --zone=VALUE"
  [ ! -s "$STUB/log" ]
}

@test "settings that cannot be used are named" {
  run -2 "$scripts/create.sh" --capacity=cheap
  contains "CAPACITY=cheap"
  run -2 "$scripts/create.sh" --num_slices=0
  contains "NUM_SLICES=0"
  run -2 "$scripts/create.sh" --poll_secs=soon
  contains "POLL_SECS=soon"
  run -2 "$scripts/create.sh" --zon=a
  contains "unexpected argument --zon=a"
  run -2 "$scripts/launch.sh" --bucket=gs://my-bucket -- true
  contains "BUCKET=gs://my-bucket"
  run -2 "$scripts/launch.sh" --run_name='../x' -- true
  contains "RUN_NAME=../x"
  [ ! -s "$STUB/log" ]
}

@test "a flag wins over the environment" {
  run -0 "$scripts/create.sh" --zone=europe-west4-a --tpu_name=other
  logged "gcloud compute tpus queued-resources create other --node-id=other \
--zone=europe-west4-a --project=my-project --accelerator-type=v6e-8 \
--runtime-version=v2-alpha-tpuv6e"
}

@test "a dry run prints exact commands and executes nothing" {
  export DRY_RUN=1
  run -0 "$scripts/create.sh" --project='two words'
  contains "gcloud compute tpus queued-resources create pod --node-id=pod \
--zone=us-east5-b --project=two\\ words --accelerator-type=v6e-8 \
--runtime-version=v2-alpha-tpuv6e"
  for name in wait setup sync_code status logs kill; do
    run -0 "$scripts/$name.sh"
    contains "gcloud "
  done
  run -0 "$scripts/delete.sh" pod
  contains "delete pod --zone=us-east5-b --project=my-project --force --quiet"
  run -0 "$scripts/launch.sh" -- python train.py --config='a b.py'
  contains "worker.sh"
  run -0 "$scripts/babysit.sh" --num_slices=2 -- python train.py
  contains "ssh pod-0 "
  contains "ssh pod-1 "
  [ ! -s "$STUB/log" ]
}

@test "what a dry run prints is what a real run calls" {
  run -0 "$scripts/create.sh" --dry_run --capacity=spot
  printed=$(grep ' create ' <<<"$output")
  run -0 "$scripts/create.sh" --capacity=spot
  # The stub quotes in its own way, so words are compared.
  eval "words=($(grep ' create ' "$STUB/log"))"
  [ "$(printf '%q ' "${words[@]}")" = "$printed " ]
}
