"""Backbones of keras-hub that stand on others: for detection, masks and depth."""

from wild_models import hub_vision
from wild_models.hub_vision import IMAGE, hub, models


def vitdet(image=32):
    return models().ViTDetBackbone(
        hidden_size=16,
        num_layers=2,
        intermediate_dim=64,
        num_heads=4,
        global_attention_layer_indices=[1],
        patch_size=8,
        num_output_channels=8,
        window_size=2,
        image_shape=(image, image, 3),
    )


@hub("ViTDetBackbone")
def vi_t_det_backbone():
    return vitdet()


@hub("RetinaNetBackbone")
def retina_net_backbone():
    return retinanet()


def retinanet(image=IMAGE):
    return models().RetinaNetBackbone(
        image_encoder=hub_vision.resnet(image),
        min_level=3,
        max_level=5,
        use_p5=False,
        image_shape=image,
    )


@hub("DeepLabV3Backbone")
def deep_lab_v3_backbone():
    return deeplab()


def deeplab():
    return models().DeepLabV3Backbone(
        image_encoder=hub_vision.resnet(),
        low_level_feature_key="P2",
        spatial_pyramid_pooling_key="P4",
        upsampling_size=4,
        dilation_rates=[6, 12],
        projection_filters=16,
        image_shape=IMAGE,
    )


@hub("SegFormerBackbone")
def seg_former_backbone():
    return models().SegFormerBackbone(image_encoder=hub_vision.mit(), projection_filters=16)


@hub("BASNetBackbone")
def bas_net_backbone():
    return basnet()


def basnet():
    encoder = hub_vision.resnet((None, None, 3), block="basic_block", stem=64, filters=[64] * 4)
    return models().BASNetBackbone(
        image_encoder=encoder, num_classes=1, projection_filters=64, image_shape=IMAGE
    )


@hub("DepthAnythingBackbone")
def depth_anything_backbone():
    return depth_anything()


def depth_anything():
    encoder = models().DINOV2Backbone(
        patch_size=8,
        num_layers=4,
        hidden_dim=16,
        num_heads=4,
        intermediate_dim=64,
        image_shape=IMAGE,
        position_embedding_shape=(64, 64),
        use_mask_token=False,
        apply_layernorm=True,
    )
    return models().DepthAnythingBackbone(
        image_encoder=encoder,
        reassemble_factors=[4, 2, 1, 0.5],
        neck_hidden_dims=[8, 16, 24, 32],
        fusion_hidden_dim=16,
        head_hidden_dim=8,
        head_in_index=-1,
        feature_keys=["stage1", "stage2", "stage3", "stage4"],
    )
