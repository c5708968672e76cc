"""Every vision backbone of keras-hub, as small as it goes."""

import functools

from wild_models import floats, wild

hub = functools.partial(wild, "keras_hub")
IMAGE = (64, 64, 3)


def models():
    import keras_hub

    return keras_hub.models


def resnet(image=IMAGE, block="bottleneck_block", pre=False, stem=16, filters=(64, 24, 32, 40)):
    kernels = {"input_conv_filters": [stem], "input_conv_kernel_sizes": [7]}
    if block.endswith("_vd"):
        kernels = {"input_conv_filters": [8, 8, 16], "input_conv_kernel_sizes": [3, 3, 3]}
    return models().ResNetBackbone(
        **kernels,
        stackwise_num_filters=list(filters),  # keras-hub wants 64 as the first
        stackwise_num_blocks=[2, 1, 1, 1],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type=block,
        use_pre_activation=pre,
        image_shape=image,
    )


@hub("ResNetBackbone")
def res_net_backbone():
    return resnet()


@hub("ResNetBackbone_v2")
def res_net_backbone_v2():
    return resnet(block="bottleneck_block", pre=True)


@hub("ResNetBackbone_vd")
def res_net_backbone_vd():
    return resnet(block="bottleneck_block_vd")


@hub("CSPNetBackbone")
def csp_net_backbone():
    return cspnet("dark_block", "dark")


@hub("CSPNetBackbone_csp")
def csp_net_backbone_csp():
    return cspnet("dark_block", "csp", bottle_ratio=[0.5], expand_ratio=[2.0], cross_linear=True)


@hub("CSPNetBackbone_cs3")
def csp_net_backbone_cs3():
    return cspnet("bottleneck_block", "cs3", bottle_ratio=[0.5], block_ratio=[0.5], avg_down=True)


def cspnet(block, stage, **more):
    return models().CSPNetBackbone(
        stem_filters=8,
        stem_kernel_size=3,
        stem_strides=1,
        stackwise_depth=[1, 2, 2],
        stackwise_strides=[1, 2, 2],
        stackwise_num_filters=[16, 24, 32],
        block_type=block,
        stage_type=stage,
        image_shape=(32, 32, 3),
        **more,
    )


@hub("DenseNetBackbone")
def dense_net_backbone():
    return models().DenseNetBackbone(
        stackwise_num_repeats=[2, 3, 2], growth_rate=8, image_shape=IMAGE
    )


@hub("VGGBackbone")
def vgg_backbone():
    return models().VGGBackbone(
        stackwise_num_repeats=[1, 2, 2], stackwise_num_filters=[8, 16, 24], image_shape=(32, 32, 3)
    )


@hub("XceptionBackbone")
def xception_backbone():
    return models().XceptionBackbone(
        stackwise_conv_filters=[[8, 16], [24, 24], [32, 32, 40]],
        stackwise_pooling=[True, True, False],
        image_shape=(75, 75, 3),
    )


@hub("EfficientNetBackbone")
def efficient_net_backbone():
    return efficientnet(["v1"] * 3)


@hub("EfficientNetBackbone_v2")
def efficient_net_backbone_v2():
    return efficientnet(["fused", "fused", "unfused"])


@hub("EfficientNetBackbone_lite")
def efficient_net_backbone_lite():
    return efficientnet(["v1"] * 3, squeeze=[0, 0, 0], activation="relu6")


def efficientnet(blocks, squeeze=(0, 0.25, 0.25), **more):
    return models().EfficientNetBackbone(
        stackwise_width_coefficients=[1.0] * 3,
        stackwise_depth_coefficients=[1.0] * 3,
        stackwise_kernel_sizes=[3, 3, 5],
        stackwise_num_repeats=[1, 2, 2],
        stackwise_input_filters=[16, 16, 24],
        stackwise_output_filters=[16, 24, 32],
        stackwise_expansion_ratios=[1, 4, 4],
        stackwise_squeeze_and_excite_ratios=list(squeeze),
        stackwise_strides=[1, 2, 2],
        stackwise_block_types=blocks,
        stackwise_force_input_filters=[0] * 3,
        stackwise_nores_option=[False] * 3,
        num_features=64,
        input_shape=IMAGE,
        **more,
    )


@hub("MobileNetBackbone")
def mobile_net_backbone():
    return mobilenet(depthwise_filters=8, squeeze_and_excite=0.5)


@hub("MobileNetBackbone_v3")
def mobile_net_backbone_v3():
    return mobilenet(
        depthwise_filters=16, depthwise_stride=1, depthwise_residual=True, input_activation="relu"
    )


def mobilenet(**more):
    options = {"depthwise_stride": 2, "depthwise_residual": False, "last_layer_filter": 40, **more}
    return models().MobileNetBackbone(
        stackwise_expansion=[[20, 28], [32, 48]],
        stackwise_num_blocks=[2, 2],
        stackwise_num_filters=[[16, 16], [24, 24]],
        stackwise_kernel_size=[[3, 3], [5, 5]],
        stackwise_num_strides=[[2, 1], [2, 1]],
        stackwise_se_ratio=[[None, None], [0.25, 0.25]],
        stackwise_activation=[["relu", "relu"], ["hard_swish", "hard_swish"]],
        stackwise_padding=[[1, 1], [2, 2]],
        output_num_filters=64,
        input_num_filters=16,
        image_shape=IMAGE,
        **options,
    )


@hub("MobileNetV5Backbone")
def mobile_net_v5_backbone():
    return models().MobileNetV5Backbone(
        stackwise_block_types=[["er"], ["uir", "mqa"]],
        stackwise_num_blocks=[1, 2],
        stackwise_num_filters=[[24], [32, 32]],
        stackwise_strides=[[2], [2, 1]],
        stackwise_act_layers=[["relu"], ["relu", "relu"]],
        stackwise_exp_ratios=[[4.0], [4.0, 1.0]],
        stackwise_se_ratios=[[0.0], [0.0, 0.0]],
        stackwise_dw_kernel_sizes=[[0], [5, 3]],
        stackwise_dw_start_kernel_sizes=[[0], [0, 0]],
        stackwise_dw_end_kernel_sizes=[[0], [0, 0]],
        stackwise_exp_kernel_sizes=[[3], [0, 0]],
        stackwise_pw_kernel_sizes=[[1], [0, 0]],
        stackwise_num_heads=[[0], [0, 4]],
        stackwise_key_dims=[[0], [0, 8]],
        stackwise_value_dims=[[0], [0, 8]],
        stackwise_kv_strides=[[0], [0, 1]],
        stackwise_use_cpe=[[False], [False, False]],
        num_features=64,
        use_msfa=False,
        image_shape=IMAGE,
    )


def hgnet(image=IMAGE, light=False, affine=False, out=None):
    return models().HGNetV2Backbone(
        depths=[1, 1, 1],
        embedding_size=16,
        hidden_sizes=[32, 48, 64],
        stem_channels=[3, 8, 16],
        hidden_act="relu",
        use_learnable_affine_block=affine,
        stackwise_stage_filters=[
            (16, 8, 32, 1, 3, 3),
            (32, 8, 48, 1, 3, 3),
            (48, 8, 64, 1, 3, 3),
        ],
        apply_downsample=[False, True, True],
        use_lightweight_conv_block=[False, light, light],
        image_shape=image,
        out_features=out,
    )


@hub("HGNetV2Backbone")
def hg_net_v2_backbone():
    return hgnet()


@hub("HGNetV2Backbone_light")
def hg_net_v2_backbone_light():
    return hgnet(light=True, affine=True)


def mit(image=IMAGE):
    return models().MiTBackbone(
        layerwise_depths=[1, 1, 1, 1],
        num_layers=4,
        layerwise_num_heads=[1, 2, 2, 4],
        layerwise_sr_ratios=[8, 4, 2, 1],
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7, 3, 3, 3],
        layerwise_strides=[4, 2, 2, 2],
        image_shape=image,
        hidden_dims=[8, 16, 24, 32],
    )


@hub("MiTBackbone")
def mi_t_backbone():
    return mit()


def vit(image=(32, 32, 3), **more):
    return models().ViTBackbone(
        image_shape=image,
        patch_size=8,
        num_layers=2,
        num_heads=4,
        hidden_dim=24,
        mlp_dim=96,
        **more,
    )


@hub("ViTBackbone")
def vi_t_backbone():
    return vit()


@hub("ViTBackbone_without_token")
def vi_t_backbone_without_token():
    return vit(use_class_token=False, use_mha_bias=False)


@hub("DeiTBackbone")
def dei_t_backbone():
    return models().DeiTBackbone(
        image_shape=(32, 32, 3),
        patch_size=8,
        num_layers=2,
        num_heads=4,
        hidden_dim=24,
        intermediate_dim=96,
    )


@hub("SwinTransformerBackbone")
def swin_transformer_backbone():
    return models().SwinTransformerBackbone(
        image_shape=(32, 32, 3),
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
        patch_size=2,
    )


def dino(**more):
    return models().DINOV2Backbone(
        patch_size=8,
        num_layers=2,
        hidden_dim=24,
        num_heads=4,
        intermediate_dim=96,
        image_shape=(32, 32, 3),
        position_embedding_shape=(32, 32),
        **more,
    )


@hub("DINOV2Backbone")
def dinov2_backbone():
    return dino(use_mask_token=False), {"images": floats(32, 32, 3)}


@hub("DINOV2Backbone_swiglu")
def dinov2_backbone_swiglu():
    model = dino(num_register_tokens=2, use_swiglu_ffn=True, use_mask_token=False)
    return model, {"images": floats(32, 32, 3)}


@hub("DINOV3Backbone")
def dinov3_backbone():
    model = models().DINOV3Backbone(
        patch_size=8,
        num_layers=2,
        hidden_dim=32,
        num_heads=4,
        intermediate_dim=128,
        use_mask_token=False,
        image_shape=(32, 32, 3),
    )
    return model, {"pixel_values": floats(32, 32, 3)}
