#!/usr/bin/env bash
# Brings a run to its end: create, wait, sync_code, setup, launch, and again after a
# preemption. Prints one line for each look. May be stopped and started at any time: it
# finds a run that goes on and watches it.
#
#   babysit.sh [--SETTING=VALUE ...] -- python train.py --config=configs/muon_lm.py ...
#
# Needs PROJECT ZONE TPU_NAME ACCELERATOR_TYPE BUCKET RUN_NAME. Takes what the single
# scripts take, and POLL_SECS (30), BACKOFF_SECS (60, doubled each time), MAX_RETRIES (3),
# DELETE_WHEN_DONE (0; 1 deletes the machines at the end of a run that is done), DRY_RUN.
#
# Training's exit code  0     every host: the run is done
#                       75    any host (stopped, resumable), or a lost machine: the queued
#                             resource is made anew and the run launched again; this never
#                             counts
#                       other (76: no step in time) launched again after a pause; counts
#                             against MAX_RETRIES, as a failed create, setup or launch does
# Exit codes: 0 done, training's last code after MAX_RETRIES relaunches, 2 bad settings.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse "$@"
no_arguments
need PROJECT ZONE TPU_NAME ACCELERATOR_TYPE BUCKET RUN_NAME
[ ${#command[@]} -gt 0 ] || die "no training command; it stands after --:
  babysit.sh -- python train.py --config=configs/muon_lm.py"

SILENT_LOOKS=5     # machines that are ACTIVE and do not answer are then taken for lost
STRAGGLING_LOOKS=5 # when a host has failed, the others get this many looks to end too

launches=0 failures=0

line() { say "launch $launches, failures $failures/$MAX_RETRIES, $*"; }

# Its settings reach the scripts through the environment.
start() { # 0 launched, 75 lost, another code where something failed
  local code=0
  "$here/create.sh" || return 1
  "$here/wait.sh" || return
  "$here/sync_code.sh" && "$here/setup.sh" || code=$?
  if [ "$code" = 0 ]; then
    "$here/launch.sh" -- "${command[@]}" || code=$?
    [ "$code" != 2 ] || exit 2 # it has said which setting; another try is no help
  fi
  [ "$code" != 0 ] || return 0
  case $(queued_state) in
    SUSPENDING | SUSPENDED | DELETING | ABSENT) return 75 ;;
    *) return "$code" ;;
  esac
}

# What the lines of `worker_states` come to: `busy`, `broken CODE` (one has failed and
# others go on) or `ended CODE`. 134 is the abort of a process whose peer has died, so
# another code says more.
summarize() { # LINES
  awk '
    $2 == "running" || $2 == "saving" { busy++ }
    $2 == "gone" || $2 == "absent" || $2 == "exited" && $3 == 75 { again++ }
    $2 == "exited" && $3 != 0 && $3 != 75 {
      failed++
      if (code == "" || code == 134) code = $3
    }
    END {
      if (again) code = 75
      if (busy && (failed || again)) print "broken", code
      else if (busy) print "busy"
      else print "ended", code + 0
    }' <<<"$1"
}

watch() { # returns training's code; 75 for a lost machine as well
  local state lines word code shown silent=0 straggling=0
  while :; do
    state=$(queued_state)
    case $state in
      ACTIVE)
        if lines=$(worker_states 2>/dev/null) &&
          [ "$(wc -l <<<"$lines")" -ge "$NUM_SLICES" ] && [ -n "$lines" ]; then
          silent=0
          read -r word code <<<"$(summarize "$lines")"
          shown=$(cut -d' ' -f2- <<<"$lines" | sort | uniq -c | sed 's/^ *//' |
            paste -sd, | sed 's/,/, /g')
          line "ACTIVE, hosts: $shown"
          case $word in
            ended) return "$code" ;;
            broken)
              straggling=$((straggling + 1))
              [ "$straggling" -lt "$STRAGGLING_LOOKS" ] || return "$code"
              ;;
          esac
        else
          silent=$((silent + 1))
          line "ACTIVE, not every host answers ($silent of $SILENT_LOOKS)"
          [ "$silent" -lt "$SILENT_LOOKS" ] || return 75
        fi
        ;;
      UNKNOWN) line "UNKNOWN" ;;
      *)
        line "$state: the machines are lost"
        return 75
        ;;
    esac
    sleep "$POLL_SECS"
  done
}

goes_on() { # whether hosts are there that run this run
  [ "$(queued_state)" = ACTIVE ] && [[ $(worker_states 2>/dev/null) == *" running"* ]]
}

recreate() { # create.sh sees to machines that are on their way out
  [ "$(queued_state)" != ACTIVE ] || delete_queued ||
    say "$QR could not be deleted; it is looked at again"
}

if [ "$DRY_RUN" = 1 ]; then
  for script in create wait sync_code setup; do "$here/$script.sh"; done
  "$here/launch.sh" -- "${command[@]}"
  worker_states
  exit 0
fi

while :; do
  launches=$((launches + 1)) code=0
  if [ "$launches" = 1 ] && goes_on; then
    line "$RUN_NAME goes on already"
  else
    start || code=$?
  fi
  if [ "$code" = 0 ]; then
    watch || code=$?
    ended="training ended"
  else
    ended="the launch did not succeed"
  fi
  case $code in
    0)
      line "$RUN_NAME is done"
      if [ "$DELETE_WHEN_DONE" = 1 ]; then
        delete_queued
      else
        say "$QR is still there and costs money: delete.sh $QR"
      fi
      exit 0
      ;;
    75)
      line "preempted (75): $QR is made anew"
      recreate
      ;;
    *)
      failures=$((failures + 1))
      line "$ended with code $code"
      if [ "$failures" -gt "$MAX_RETRIES" ]; then
        say "given up after $MAX_RETRIES relaunches; $QR is still there and costs money:"
        say "  logs.sh --from_bucket, then delete.sh $QR"
        exit "$code"
      fi
      # What hangs must not hold the accelerators.
      "$here/kill.sh" --now || true
      sleep $((BACKOFF_SECS * 2 ** (failures - 1)))
      ;;
  esac
done
