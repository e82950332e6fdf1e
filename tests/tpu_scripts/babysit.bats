# The babysitter: exit codes, what counts, what does not.
load helpers

babysit() {
  [ -d "$BATS_TEST_TMPDIR/checkout" ] || small_checkout
  "$scripts/babysit.sh" "$@" -- python train.py --config=c.py
}

active() { echo ACTIVE >"$STUB/state"; }

# What the hosts say at each look: `w0 running, w1 exited 0`. After @ stands what the
# state of the machines is from then on.
hosts() {
  local look looks=()
  for look in "$@"; do
    look=${look//, /\\njopt-worker }
    looks+=("${look:+jopt-worker $look}")
  done
  answers ssh-state "${looks[@]}"
}

launches() { calls 'worker.sh start'; }

@test "one run through: created, waited for, set up, launched, done" {
  printf '%s\n' ACCEPTED WAITING_FOR_RESOURCES ACTIVE >"$STUB/created"
  answers hosts 1
  hosts "w0 running" "w0 saving" "w0 exited 0"
  run -0 babysit
  [ "$(grep -oE ' create | scp |worker.sh [a-z]*' "$STUB/log" | tr -d '\n')" = \
    " create  scp worker.sh setupworker.sh pullworker.sh start$(
      printf 'worker.sh state%.0s' 1 2 3
    )" ]
  contains "pod is WAITING_FOR_RESOURCES"
  contains "launch 1, failures 0/3, ACTIVE, hosts: 1 running"
  contains "hosts: 1 saving"
  contains "run1 is done"
  contains "delete.sh pod"
  [ "$(calls ' delete ')" = 0 ]
}

@test "DELETE_WHEN_DONE=1 deletes the machines of a run that is done" {
  answers hosts 1
  hosts "w0 exited 0"
  run -0 babysit --delete_when_done=1
  [ "$(calls ' delete pod ')" = 1 ]
}

@test "75: the machines are made anew and the run launched again; it never counts" {
  answers hosts 1
  hosts "w0 running" "w0 exited 75" "w0 running" "w0 exited 75" "w0 exited 0"
  run -0 babysit --max_retries=0
  [ "$(calls ' delete pod ')" = 2 ]
  [ "$(calls ' create pod ')" = 3 ]
  [ "$(launches)" = 3 ]
  contains "failures 0/0, run1 is done"
}

@test "a lost machine is made anew, and never counts" {
  answers hosts 1
  hosts "w0 running @SUSPENDING SUSPENDING SUSPENDED" "w0 running @SUSPENDED" \
    "w0 running @DELETING" "w0 exited 0"
  # What is being deleted is gone after a while.
  (
    until [ "$(cat "$STUB/state")" = DELETING ]; do sleep 0.05; done
    rm "$STUB/state"
  ) 2>/dev/null &
  run -0 babysit --max_retries=0
  contains "SUSPENDING: the machines are lost"
  contains "SUSPENDED: the machines are lost"
  contains "failures 0/0, run1 is done"
  [ "$(calls ' create pod ')" = 4 ]
  [ "$(launches)" = 4 ]
  wait
}

@test "machines lost during the launch do not count either" {
  answers hosts 1
  answers ssh-pull "@SUSPENDED" ""
  codes ssh-pull 255 0
  hosts "w0 exited 0"
  run -0 babysit --max_retries=0
  [ "$(calls ' create pod ')" = 2 ]
}

@test "76 and other codes count, on the machines there are; the last one is handed on" {
  active
  answers hosts 1
  hosts "w0 absent" "w0 exited 76" "w0 exited 1" "w0 exited 134"
  run -134 babysit --max_retries=2
  [ "$(launches)" = 3 ]
  [ "$(calls ' delete | create ')" = 0 ]
  [ "$(calls 'worker.sh stop KILL')" = 2 ]
  contains "failures 1/2, training ended with code 76"
  contains "failures 3/2, training ended with code 134"
}

@test "the pause doubles with every failure" {
  mkdir "$BATS_TEST_TMPDIR/bin"
  printf '#!/bin/bash\necho "$1" >>%q\n' "$STUB/sleeps" >"$BATS_TEST_TMPDIR/bin/sleep"
  chmod +x "$BATS_TEST_TMPDIR/bin/sleep"
  active
  answers hosts 1
  hosts "w0 exited 1"
  PATH=$BATS_TEST_TMPDIR/bin:$PATH run -1 babysit --backoff_secs=10 --max_retries=3
  [ "$(tr '\n' ' ' <"$STUB/sleeps")" = "10 20 40 " ]
}

@test "a machine that cannot be had counts, and so does a failed setup" {
  echo FAILED >"$STUB/created"
  run -1 babysit --max_retries=1
  [ "$(calls ' create pod ')" = 2 ]
  active
  codes ssh-setup 5
  run -5 babysit --max_retries=1
  contains "the launch did not succeed with code 5"
}

@test "a setting that is wrong is said once" {
  active
  answers hosts 4
  run -2 babysit
  contains "SHARED_DIR is not set"
  [ "$(launches)" = 0 ]
}

@test "several hosts: done when all are, 75 when any is, the cause before an abort" {
  active
  hosts "w0 absent" "w0 exited 0, w1 running" "w0 exited 0, w1 exited 0"
  run -0 babysit --shared_dir=/shared
  contains "hosts: 1 exited 0, 1 running"
  hosts "w0 exited 134, w1 exited 1"
  run -1 babysit --shared_dir=/shared --max_retries=0
  hosts "w0 absent" "w0 exited 134, w1 exited 75" "w0 exited 0, w1 exited 0"
  run -0 babysit --shared_dir=/shared --max_retries=0
  hosts "w0 absent" "w0 gone, w1 exited 1" "w0 exited 0, w1 exited 0"
  run -0 babysit --shared_dir=/shared --max_retries=0
}

@test "hosts that hang after another has failed are ended" {
  active
  hosts "w0 exited 1, w1 running"
  run -1 babysit --shared_dir=/shared --max_retries=0
  [ "$(calls 'worker.sh state')" = 6 ]
  hosts "w0 absent" "w0 exited 1, w1 running" "w0 exited 1, w1 exited 76" \
    "w0 exited 0, w1 exited 0"
  run -0 babysit --shared_dir=/shared --max_retries=1
  contains "training ended with code 1"
}

@test "no answer is waited for; no answer for long is a lost machine" {
  answers hosts 1
  answers describe ACTIVE ACTIVE ACTIVE ACTIVE down down ACTIVE
  codes describe 0 0 0 0 1 1 0
  hosts "w0 absent" "w0 running" "w0 exited 0"
  run -0 babysit --max_retries=0
  contains "UNKNOWN"
  [ "$(calls ' delete | create ')" = 0 ]
  rm "$STUB"/describe.*
  active
  codes ssh-state 0 255 255 255 255 255 0
  hosts "w0 absent" "" "" "" "" "" "w0 exited 0"
  run -0 babysit --max_retries=0
  contains "not every host answers (5 of 5)"
  [ "$(calls ' delete pod ')" = 1 ]
}

@test "an answer without a host in it is not the end of a run" {
  active
  answers hosts 1
  hosts "w0 absent" "" "w0 exited 0"
  run -0 babysit
  contains "not every host answers (1 of 5)"
}

@test "started again, it watches the run that goes on" {
  active
  hosts "w0 running" "w0 running" "w0 exited 0"
  run -0 babysit
  contains "run1 goes on already"
  [ "$(launches)" = 0 ]
  [ "$(calls ' scp ')" = 0 ]
}
