"""The methods that LocDiffusion is compared with, and the location encoders of the paper's appendix."""
