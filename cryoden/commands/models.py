"""The verb `models`."""

from collections.abc import Iterator

from cryoden.console import loading
from cryoden.errors import CryodenError
from cryoden.models import ShippedModel, shipped_models

_TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}  # root mean square, in standard deviations of the answer


def models(words: list[str] = []) -> Iterator[str]:  # noqa: B006 - never changed
    """The trained models that come with cryoden.

    cryoden models: which there are, and what each is for.
    cryoden models card NAME: how a model was made, and how well it does.
    cryoden models check [NAMES]: whether they give here what they gave where they were made.

    Args:
        words: nothing, or card and a name, or check and any names.

    Yields:
        A line for each model, or its card.

    Raises:
        CryodenError: there is no such model, or it does not give what it should.
    """
    known = shipped_models()
    action, names = (words[0], words[1:]) if words else ("list", [])
    unknown = [name for name in names if name not in known]
    if action not in ("list", "card", "check"):
        raise CryodenError(f"models: got {action!r}; allowed are nothing, card and check")
    if unknown:
        raise CryodenError(f"models {action}: no model {unknown[0]!r}; there are {', '.join(known)}")
    if action == "card":
        if len(names) != 1:
            raise CryodenError(f"models card: got {len(names)} names; give one of {', '.join(known)}")
        yield known[names[0]].card
        return
    for name in names or known:
        model = known[name]
        if action == "check":
            yield _check(model)
        else:
            yield f"{name}: {model.about}; {model.range}; expects {model.expects}"


def _check(model: ShippedModel) -> str:
    """Denoise the volume that comes with a model in each precision, and tell how far off the answer is."""
    with loading():
        import torch
        from safetensors.torch import load_file

        from cryoden.checkpoint import load_denoiser
    pair = load_file(model.check)
    denoiser = load_denoiser(model.weights)
    told = []
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        given = pair["degraded"][None, None].float().to(device)
        denoiser.to(device)
        for precision, tolerance in _TOLERANCE.items():
            with (
                torch.inference_mode(),
                torch.autocast(device, getattr(torch, precision), enabled=precision != "float32"),
            ):
                answer = denoiser(given)[0, 0].float().cpu()
            off = float((answer - pair["denoised"]).square().mean().sqrt() / pair["denoised"].std())
            told.append(f"{precision} on {device} {off:.0e}")
            if not off <= tolerance:
                raise CryodenError(
                    f"{model.name} gives another answer here than where it was made: {told[-1]} of its standard "
                    f"deviation away, allowed is {tolerance:g}; try another version of torch, {torch.__version__} here"
                )
    return f"{model.name}: as it should be; off by {', '.join(told)}"
