"""From a config to a trained model: oracles, state, step, loop, checkpoints."""
