"""Networks: plain `torch.nn.Module`s, without a word on how they are trained."""
