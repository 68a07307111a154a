"""The model: its configuration, network, diffusion, objectives, refinement levels, posteriors and checkpoints."""
