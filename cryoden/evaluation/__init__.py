"""Whether a denoiser did well: baselines, tables, figures."""
