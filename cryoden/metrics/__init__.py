"""How close a denoised volume is to the clean one: pure functions, and the same as torchmetrics classes."""
