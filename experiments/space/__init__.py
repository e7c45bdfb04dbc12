"""From one YAML file to an ordered plan. Nothing here imports torch, Ray or (at module level) Optuna."""
