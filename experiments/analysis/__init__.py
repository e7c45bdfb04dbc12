"""What trained models do: curves, confusion, separability, failures, calibration, gates."""
