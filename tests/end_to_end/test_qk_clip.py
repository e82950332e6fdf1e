"""A run that keeps its attention logits below a threshold."""

from __future__ import annotations

THRESHOLD = 1.0
FLAGS = (
    "--config.train.steps=12",
    "--config.train.log_every_steps=1",
    "--config.model.num_kv_heads=1",
    "--config.model.fused_qkv=True",
    f"--config.optim.whole_tree.qk_clip={THRESHOLD}",
)
LARGEST, CLIPPED = "optim/1/max_logit", "optim/1/clipped"


def test_a_run_clips_at_once_and_stays_near_the_threshold(training):
    done = training.run(
        *FLAGS, "--config.model.qk_norm=False", "--config.train.accumulation=2"
    )
    assert done.returncode == 0, done.stderr
    records = [r for r in training.records() if LARGEST in r]
    assert len(records) == 12
    # Logits of unit inputs and weights, before anything was clipped.
    assert records[0][LARGEST] > 2 * THRESHOLD
    assert records[0][CLIPPED] == 2
    for record in records[1:]:
        # What one step adds; the batch is another one, too.
        assert record[LARGEST] < 1.5 * THRESHOLD, record


def test_a_run_with_normed_queries_says_that_it_has_no_effect(training):
    done = training.run(*FLAGS, "--dry_run")
    assert done.returncode == 0, done.stderr
    assert "qk_clip does nothing in 1 of 1 attention layers" in done.stderr
    assert "needs extra args: max_attention_logits" in done.stdout
