#!/usr/bin/env bash
# Prints a JobSet for a run on GKE, with the same RUN_NAME, bucket and exit codes.
#
#   CLAIM=c IMAGE=i TPU_SELECTOR=tpu-v5-lite-podslice TOPOLOGY=4x4 HOSTS=4 CHIPS=4 \
#     gke.sh [--SETTING=VALUE ...] -- python train.py ... | kubectl apply -f -
#
# A template. Needs BUCKET RUN_NAME, IMAGE (holds this checkout in /jopt, an environment
# with jopt[tpu] as `python`, gcloud and flock), CLAIM (a PersistentVolumeClaim that all
# pods mount, ReadWriteMany; run folders are in it), TPU_SELECTOR and TOPOLOGY (of the node
# pools), HOSTS (in a slice), CHIPS (on a host). Takes NUM_SLICES, MAX_RETRIES, SYNC_SECS.
#
# 75 or an evicted pod: the pod is started again and nothing is counted. Any other code
# fails its job, and the JobSet starts all of them again, MAX_RETRIES times. No back-off.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse "$@"
no_arguments
need BUCKET RUN_NAME IMAGE CLAIM TPU_SELECTOR TOPOLOGY HOSTS CHIPS
[ ${#command[@]} -gt 0 ] || die "no training command; it stands after --"

SHARED_DIR=/shared/runs
add_replicas
in_container "${command[@]}"
list() { # WORD...: a YAML list in one line; JSON strings are YAML strings
  local word
  for word in "$@"; do
    word=${word//\\/\\\\}
    printf '"%s", ' "${word//\"/\\\"}"
  done | sed 's/, $//'
}

cat <<END
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: ${RUN_NAME//[._]/-}
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: $MAX_RETRIES
  replicatedJobs:
    - name: slice
      replicas: $NUM_SLICES
      template:
        spec:
          parallelism: $HOSTS
          completions: $HOSTS
          completionMode: Indexed
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: Ignore
                onExitCodes:
                  operator: In
                  values: [75]
              - action: Ignore
                onPodConditions:
                  - type: DisruptionTarget
              - action: FailJob
                onExitCodes:
                  operator: NotIn
                  values: [0, 75]
          template:
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: 300
              hostNetwork: true
              dnsPolicy: ClusterFirstWithHostNet
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: $TPU_SELECTOR
                cloud.google.com/gke-tpu-topology: $TOPOLOGY
              containers:
                - name: train
                  image: $IMAGE
                  workingDir: /jopt
                  command: [$(list "${words[@]}")]
                  resources:
                    limits:
                      google.com/tpu: $CHIPS
                  volumeMounts:
                    - name: shared
                      mountPath: /shared
              volumes:
                - name: shared
                  persistentVolumeClaim:
                    claimName: $CLAIM
END
