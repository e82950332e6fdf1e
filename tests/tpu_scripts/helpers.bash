# Loaded by every test file.
bats_require_minimum_version 1.5.0

# A version manager's python3 may be a script that takes longer than the stub.
setup_file() {
  real=$(python3 -c 'import os, sys; print(os.path.realpath(sys.executable))')
  mkdir -p "$BATS_FILE_TMPDIR/python"
  ln -s "$real" "$BATS_FILE_TMPDIR/python/python3"
}

setup() {
  scripts=$(cd "$BATS_TEST_DIRNAME/../../tpu_scripts" && pwd)
  export STUB=$BATS_TEST_TMPDIR/stub
  mkdir -p "$STUB"
  touch "$STUB/log"
  # The stub is found before a gcloud that may be installed.
  export PATH=$BATS_TEST_DIRNAME/stub:$BATS_FILE_TMPDIR/python:$PATH
  export PROJECT=my-project ZONE=us-east5-b TPU_NAME=pod ACCELERATOR_TYPE=v6e-8
  export BUCKET=my-bucket RUN_NAME=run1
  export POLL_SECS=0 BACKOFF_SECS=0
  unset QR RUNTIME_VERSION NUM_SLICES CAPACITY SHARED_DIR SYNC_SECS MAX_RETRIES DRY_RUN
  unset EXTRAS REMOTE_PYTHON DELETE_WHEN_DONE FORWARD_TERM
}

answers() { # KEY LINE...: of the stub
  local key=$1
  shift
  printf '%s\n' "$@" >"$STUB/$key.out"
}

codes() { # KEY CODE...
  local key=$1
  shift
  printf '%s\n' "$@" >"$STUB/$key.code"
}

calls() { # PATTERN: how many calls were like this
  grep -cE -- "$1" "$STUB/log" || true
}

logged() { # TEXT: whether a call was exactly this
  grep -qxF -- "$1" "$STUB/log" || {
    cat "$STUB/log"
    return 1
  }
}

contains() { # TEXT: whether $output has it
  [[ $output == *"$1"* ]] || {
    printf 'not in the output: %s\n%s\n' "$1" "$output"
    return 1
  }
}

act_out() { # HOSTS: commands run on this machine
  mkdir -p "$STUB/image/jopt/tpu_scripts" "$STUB/home"
  cp "$scripts/worker.sh" "$STUB/image/jopt/tpu_scripts/"
  echo "$1" >"$STUB/hosts"
}

small_checkout() { # the scripts in a repository of their own, which is quickly sent
  mkdir "$BATS_TEST_TMPDIR/checkout"
  cp -r "$scripts" "$BATS_TEST_TMPDIR/checkout/"
  git -C "$BATS_TEST_TMPDIR/checkout" init -q
  scripts=$BATS_TEST_TMPDIR/checkout/tpu_scripts
}
