"""Which part of the supernet an architecture uses, against index arithmetic and a forward pass written out here.

Nothing of `psvit.supernet` or `psvit.model` takes part in the expectations: they are made from the words of the
design (leading channels, leading heads, first layers, a sharer uses the values) and from the numbers in the space.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from psvit.arch.architecture import Architecture
from psvit.space.search_space import SearchSpace

HEAD_DIM = 4
BEGINS = {2: (0, 5), 3: (0, 2, 5)}
"""Where the stages of the spaces in conftest begin in the list of layers, by number of stages."""


def leading(array, *sizes):
    """The first entries along every axis that is named, all along the others."""
    for axis, size in enumerate(sizes):
        array = np.take(array, list(range(size)), axis=axis)
    return array


def rows_of(thirds, width, supernet_width):
    """Rows of a fused query-key-value matrix of a supernet: the leading heads of each of these thirds."""
    return [
        third * supernet_width + head * HEAD_DIM + channel
        for third in thirds
        for head in range(width // HEAD_DIM)
        for channel in range(HEAD_DIM)
    ]


def expected_slices(weights, arch):
    """An architecture's parameters by name, from the supernet's as arrays."""
    first, last = arch.stages[0].embed_dim, arch.stages[-1].embed_dim
    # Where there are networks of both variants, each has poolings, a norm and a classifier of its own.
    of = f"_{arch.variant}" if f"norm_{arch.variant}.weight" in weights else ""
    skipped = 1 if of and arch.variant == "2d" else 0
    expected = {
        "pos_embed": weights["pos_embed"][:, skipped:, :first],
        "norm.weight": leading(weights[f"norm{of}.weight"], last),
        "norm.bias": leading(weights[f"norm{of}.bias"], last),
        "head.weight": weights[f"head{of}.weight"][:, :last],
        "head.bias": weights[f"head{of}.bias"],
    }
    if arch.stem == "patch":
        for part in ("weight", "bias"):
            expected[f"patch_embed.proj.{part}"] = leading(weights[f"patch_embed.proj.{part}"], first)
    else:
        # Two convolutions for patches of two pixels, the first with half the channels.
        half = math.ceil(first / 2)
        expected["patch_embed.convs.0.weight"] = leading(weights["conv_stem.convs.0.weight"], half)
        expected["patch_embed.convs.0.bias"] = leading(weights["conv_stem.convs.0.bias"], half)
        expected["patch_embed.convs.2.weight"] = leading(weights["conv_stem.convs.2.weight"], first, half)
        expected["patch_embed.convs.2.bias"] = leading(weights["conv_stem.convs.2.bias"], first)
    if arch.variant == "1d":
        expected["cls_token"] = weights["cls_token"][:, :, :first]
    for number, (stage, begin) in enumerate(zip(arch.stages, BEGINS[len(arch.stages)], strict=True)):
        width, hidden = stage.embed_dim, round(stage.embed_dim * stage.mlp_ratio)
        if number:
            before, pool = arch.stages[number - 1].embed_dim, f"stages.{number}.pool"
            if arch.pools[number - 1] == "conv":
                expected[f"{pool}.pool.weight"] = leading(weights[f"pools.{begin}{of}.conv.weight"], before)
                expected[f"{pool}.pool.bias"] = leading(weights[f"pools.{begin}{of}.conv.bias"], before)
            if width != before:
                for linear in ["proj", "cls_proj"] if arch.variant == "1d" else ["proj"]:
                    expected[f"{pool}.{linear}.weight"] = leading(
                        weights[f"pools.{begin}{of}.{linear}.weight"], width, before
                    )
                    expected[f"{pool}.{linear}.bias"] = leading(weights[f"pools.{begin}{of}.{linear}.bias"], width)
        place = begin
        for group, length in enumerate(stage.groups):
            for layer in range(length):
                mine, source = f"stages.{number}.groups.{group}.layers.{layer}", f"layers.{place}"
                fused, fused_bias = weights[f"{source}.attn.qkv.weight"], weights[f"{source}.attn.qkv.bias"]
                # Queries and keys are a producer's only; the third third are the values.
                name, thirds = ("qkv", (0, 1, 2)) if layer == 0 else ("v", (2,))
                rows = rows_of(thirds, width, len(fused) // 3)
                expected[f"{mine}.attn.{name}.weight"] = fused[rows][:, :width]
                expected[f"{mine}.attn.{name}.bias"] = fused_bias[rows]
                sizes = {
                    "norm1.weight": [width],
                    "norm1.bias": [width],
                    "attn.proj.weight": [width, width],
                    "attn.proj.bias": [width],
                    "norm2.weight": [width],
                    "norm2.bias": [width],
                    "mlp.fc1.weight": [hidden, width],
                    "mlp.fc1.bias": [hidden],
                    "mlp.fc2.weight": [width, hidden],
                    "mlp.fc2.bias": [width],
                }
                for part, size in sizes.items():
                    expected[f"{mine}.{part}"] = leading(weights[f"{source}.{part}"], *size)
                place += 1
    return expected


def layer_norm(x, w, name):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6) * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(x, w, name):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def softmax(x):
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def heads_of(x):
    """From (N, D) to one (N, HEAD_DIM) for each head."""
    return np.split(x, x.shape[1] // HEAD_DIM, axis=1)


def pooled(x, operator, w, name):
    """One pooling of a grid (rows, columns, D) by kernel 3, stride 2, padding 1; a single row is a sequence."""
    rows, columns, _ = x.shape
    out = np.zeros((-(-rows // 2), -(-columns // 2), x.shape[2]))
    for i, j in np.ndindex(*out.shape[:2]):
        # Row 2 i is in the middle of its window, and so is the only row of a sequence.
        window = {
            (a, b): x[2 * i + a, 2 * j + b]
            for a in (-1, 0, 1)
            for b in (-1, 0, 1)
            if 0 <= 2 * i + a < rows and 0 <= 2 * j + b < columns
        }
        if operator == "max":
            out[i, j] = np.max(list(window.values()), axis=0)
        elif operator == "avg":
            out[i, j] = np.mean(list(window.values()), axis=0)
        else:
            # A sequence has a kernel of three, which slides along its only row.
            kernel = w[f"{name}.weight"][:, 0]
            kernel = kernel if kernel.ndim == 3 else np.stack([kernel] * 3, axis=1)
            out[i, j] = w[f"{name}.bias"] + sum(kernel[:, a + 1, b + 1] * value for (a, b), value in window.items())
    return out


def convolved(image, w, name, stride):
    """A 3 x 3 convolution with padding 1 of an image (C, height, width)."""
    kernel = w[f"{name}.weight"]
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1)))
    rows, columns = image.shape[1] // stride, image.shape[2] // stride
    out = np.empty((len(kernel), rows, columns))
    for i in range(rows):
        for j in range(columns):
            window = padded[:, i * stride : i * stride + 3, j * stride : j * stride + 3]
            out[:, i, j] = np.tensordot(kernel, window, axes=3) + w[f"{name}.bias"]
    return out


def reference_logits(w, arch, image):
    """Logits of one image (C, height, width), from an architecture's parameters by name."""
    p = arch.patch_size
    rows, columns = image.shape[1] // p, image.shape[2] // p
    if arch.stem == "patch":
        patches = [image[:, i * p : i * p + p, j * p : j * p + p].ravel() for i in range(rows) for j in range(columns)]
        x = np.stack(patches) @ w["patch_embed.proj.weight"].reshape(arch.stages[0].embed_dim, -1).T
        x = x + w["patch_embed.proj.bias"]
    else:
        x = gelu(convolved(image, w, "patch_embed.convs.0", stride=2))
        x = convolved(x, w, "patch_embed.convs.2", stride=1).reshape(arch.stages[0].embed_dim, -1).T
    has_class_token = arch.variant == "1d"
    if has_class_token:
        x, rows, columns = np.concatenate([w["cls_token"][0], x]), 1, rows * columns
    x = x + w["pos_embed"][0]
    for number, stage in enumerate(arch.stages):
        if number:
            name = f"stages.{number}.pool"
            token, grid = x[:has_class_token], x[has_class_token:].reshape(rows, columns, -1)
            grid = pooled(grid, arch.pools[number - 1], w, f"{name}.pool")
            rows, columns, _ = grid.shape
            patches = grid.reshape(rows * columns, -1)
            if stage.embed_dim != arch.stages[number - 1].embed_dim:
                patches = linear(patches, w, f"{name}.proj")
                if has_class_token:
                    token = linear(token, w, f"{name}.cls_proj")
            x = np.concatenate([token, patches]) if has_class_token else patches
        for group, length in enumerate(stage.groups):
            for layer in range(length):
                name = f"stages.{number}.groups.{group}.layers.{layer}"
                y = layer_norm(x, w, f"{name}.norm1")
                if layer == 0:
                    q, k, v = np.split(linear(y, w, f"{name}.attn.qkv"), 3, axis=1)
                    maps = [
                        softmax(a @ b.T / math.sqrt(HEAD_DIM)) for a, b in zip(heads_of(q), heads_of(k), strict=True)
                    ]
                else:
                    v = linear(y, w, f"{name}.attn.v")
                mixed = [weights @ values for weights, values in zip(maps, heads_of(v), strict=True)]
                x = x + linear(np.concatenate(mixed, axis=1), w, f"{name}.attn.proj")
                hidden = gelu(linear(layer_norm(x, w, f"{name}.norm2"), w, f"{name}.mlp.fc1"))
                x = x + linear(hidden, w, f"{name}.mlp.fc2")
    x = layer_norm(x, w, "norm")
    return linear(x[0] if has_class_token else x.mean(axis=0), w, "head")


def as_arrays(parameters):
    return {name: parameter.detach().numpy() for name, parameter in parameters}


def architectures(space, n):
    """Some members, drawn choice by choice through the numbering."""
    numbers = np.random.default_rng(0).permutation(space.size)[:n]
    return [space[int(number)] for number in numbers]


def test_slices_are_the_leading_channels_heads_and_layers(space, trained_like):
    supernet = trained_like(space)
    weights = as_arrays(supernet.named_parameters())
    for arch in architectures(space, 60):
        expected = expected_slices(weights, arch)
        actual = as_arrays(supernet.slices(arch).items())
        assert set(actual) == set(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(actual[name], array, err_msg=f"{name} of {arch}")


def test_a_hand_written_case_takes_these_rows_and_columns(space_2d, trained_like):
    supernet = trained_like(space_2d)
    common = set(Architecture.model_fields) & set(SearchSpace.model_fields)
    arch = Architecture.from_dict(
        {
            **{name: value for name, value in space_2d.to_dict().items() if name in common},
            "variant": "2d",
            "head_dim": 4,
            "stages": [
                {"embed_dim": 8, "groups": [1, 2], "mlp_ratio": 1.5},
                {"embed_dim": 16, "groups": [2, 1], "mlp_ratio": 3.0},
            ],
            "pools": ["conv"],
        }
    )
    own, slices = dict(supernet.named_parameters()), supernet.slices(arch)
    # Place 0 is 12 wide in the supernet, so its queries begin at row 0, its keys at 12, its values at 24.
    qkv = own["layers.0.attn.qkv.weight"]
    expected = torch.cat([qkv[0:8, :8], qkv[12:20, :8], qkv[24:32, :8]])
    assert torch.equal(slices["stages.0.groups.0.layers.0.attn.qkv.weight"], expected)
    # The third layer shares the second one's map; place 2 is 16 wide, for the layout of three stages.
    assert torch.equal(slices["stages.0.groups.1.layers.1.attn.v.weight"], own["layers.2.attn.qkv.weight"][32:40, :8])
    assert torch.equal(slices["stages.0.groups.1.layers.1.attn.v.bias"], own["layers.2.attn.qkv.bias"][32:40])
    # The second stage begins at place 5, where the layout of three stages makes the supernet 20 wide.
    assert own["layers.5.attn.qkv.weight"].shape == (60, 20)
    assert torch.equal(slices["stages.1.groups.0.layers.1.attn.v.bias"], own["layers.6.attn.qkv.bias"][40:56])
    assert torch.equal(slices["stages.1.groups.1.layers.0.mlp.fc1.weight"], own["layers.7.mlp.fc1.weight"][:48, :16])
    assert torch.equal(slices["stages.1.pool.pool.weight"], own["pools.5.conv.weight"][:8])
    assert torch.equal(slices["stages.1.pool.proj.weight"], own["pools.5.proj.weight"][:16, :8])
    assert torch.equal(slices["head.weight"], own["head.weight"][:, :16])


def test_outputs_are_those_of_a_forward_pass_written_out(space, trained_like, images):
    supernet = trained_like(space)
    weights = {name: array.astype(np.float64) for name, array in as_arrays(supernet.named_parameters()).items()}
    batch = images(space)
    for arch in architectures(space, 12):
        with torch.no_grad():
            logits = supernet(batch, arch).numpy()
        slices = expected_slices(weights, arch)
        expected = np.stack([reference_logits(slices, arch, image.double().numpy()) for image in batch])
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4, err_msg=str(arch))


def test_gradient_reaches_exactly_the_used_slices(space, trained_like, images):
    supernet = trained_like(space)
    numbered = {
        name: np.arange(parameter.numel()).reshape(parameter.shape) for name, parameter in supernet.named_parameters()
    }
    # Every entry of the supernet gets a number of its own, so that a slice of numbers says which entries it holds.
    offset, owners = 0, {}
    for name in numbered:
        numbered[name] = numbered[name] + offset
        owners[name] = offset
        offset += numbered[name].size
    for arch in architectures(space, 12):
        supernet.zero_grad()
        logits = supernet(images(space), arch)
        torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1])).backward()
        used = np.zeros(offset, dtype=bool)
        keys_bias = np.zeros(offset, dtype=bool)
        for name, numbers in expected_slices(numbered, arch).items():
            used[numbers.ravel()] = True
            if name.endswith("qkv.bias"):
                # Softmax does not notice what is added to all keys alike: this gradient is zero up to rounding.
                keys_bias[np.split(numbers, 3)[1]] = True
        for number, ((_, columns), pool) in enumerate(zip(arch.grids, arch.pools, strict=False), 1):
            if (arch.variant, pool, columns) == ("2d", "conv", 2):
                # Of two columns one is left, at which the left column of the kernel meets nothing but padding.
                padded = expected_slices(numbered, arch)[f"stages.{number}.pool.pool.weight"][..., 0]
                used[padded.ravel()] = False
        reached = np.zeros(offset, dtype=bool)
        for name, parameter in supernet.named_parameters():
            if parameter.grad is not None:
                reached[owners[name] : owners[name] + parameter.numel()] = parameter.grad.ravel().numpy() != 0
        assert not (reached & ~used).any(), f"gradient outside the slices of {arch}"
        missed = used & ~reached & ~keys_bias
        assert not missed.any(), f"{missed.sum()} used entries without a gradient in {arch}"


def test_slices_are_views_unless_they_are_narrower_query_key_value_matrices(space, trained_like):
    supernet = trained_like(space)
    memory = {parameter.untyped_storage().data_ptr() for parameter in supernet.parameters()}
    for arch in architectures(space, 10):
        for name, weight in supernet.slices(arch).items():
            if ".attn.qkv." not in name:
                assert weight.untyped_storage().data_ptr() in memory, name


@pytest.mark.parametrize("change", [{"num_classes": 6}, {"image_size": [12, 6]}, {"head_dim": 2}, {"in_chans": 3}])
def test_an_architecture_of_another_space_is_refused(space_2d, trained_like, images, change):
    supernet = trained_like(space_2d)
    stranger = Architecture.from_dict({**space_2d[0].to_dict(), **change})
    for use in (supernet.slices, supernet.extract, supernet.structure, lambda arch: supernet(images(space_2d), arch)):
        with pytest.raises(ValueError, match=f"not a member of small-2d: {next(iter(change))} is"):
            use(stranger)


def test_a_choice_that_the_space_lacks_is_refused(space_2d, trained_like):
    data = space_2d[0].to_dict()
    data["stages"][0]["groups"] = [1, 1, 1, 1]
    with pytest.raises(ValueError, match="depth is 4, must be one of 1, 2, 3"):
        trained_like(space_2d).slices(Architecture.from_dict(data))
