"""Image models of other Keras 3 packages: kimm, k3im, kyolo, keras-vision, keras-cv."""

import functools

from wild_models import wild

kimm = functools.partial(wild, "kimm")
k3im = functools.partial(wild, "k3im")
keras_cv = functools.partial(wild, "keras_cv")
SMALL = {"image_size": 32, "patch_size": 8, "num_classes": 5}
TRANSFORMER = {**SMALL, "dim": 16, "depth": 2, "heads": 4, "mlp_dim": 64, "dim_head": 8}

KIMM = {  # the smallest of each family
    "GhostNetW050": 64,
    "GhostNetV2W100": 64,
    "HGNetV2B0": 64,
    "InceptionNeXtTiny": 64,
    "LCNet035": 64,
    "MobileOneS0": 64,
    "MobileViTXXS": 64,
    "MobileViTV2W050": 64,
    "RegNetY002": 64,
    "RepVGGA0": 64,
    "TinyNetE": 64,
    "VisionTransformerTiny32": 64,
}


def _kimm(name, size):
    def build():
        import kimm

        return getattr(kimm.models, name)(
            input_shape=(size, size, 3),
            weights=None,
            classes=5,
            classifier_activation=None,
        )

    return build


for _name, _size in KIMM.items():
    kimm(f"kimm.{_name}")(_kimm(_name, _size))


# --- k3im --------------------------------------------------------------------------------------


@k3im("k3im.ViT")
def k3im_vit():
    from k3im.vit import ViT

    return ViT(**TRANSFORMER)


@k3im("k3im.ViT_1d")
def k3im_vit_1d():
    from k3im.vit_1d import ViT1DModel

    sizes = {k: v for k, v in TRANSFORMER.items() if k not in ("image_size", "patch_size")}
    return ViT1DModel(seq_len=32, patch_size=4, **sizes)


@k3im("k3im.SimpleViT")
def k3im_simple_vit():
    from k3im.simple_vit import SimpleViT

    return SimpleViT(**TRANSFORMER)


@k3im("k3im.SimpleViT_registers")
def k3im_registers():
    from k3im.simple_vit_with_register_tokens import SimpleViT_RT

    return SimpleViT_RT(**TRANSFORMER, num_register_tokens=2)


@k3im("k3im.CaiT")
def k3im_cait():
    from k3im.cait import CaiTModel

    return CaiTModel(**TRANSFORMER, cls_depth=1)


@k3im("k3im.DeepViT")
def k3im_deepvit():
    from k3im.deepvit import DeepViT

    return DeepViT(**TRANSFORMER)


@k3im("k3im.CCT")
def k3im_cct():
    from k3im.cct import CCT

    return CCT(
        input_shape=(32, 32, 3),
        num_heads=2,
        projection_dim=16,
        kernel_size=3,
        stride=2,
        padding=1,
        transformer_units=[32, 16],
        stochastic_depth_rate=0.1,
        transformer_layers=2,
        num_classes=5,
        positional_emb=True,
    )


@k3im("k3im.ConvMixer")
def k3im_convmixer():
    from k3im.convmixer import ConvMixer

    return ConvMixer(image_size=32, filters=16, depth=2, patch_size=4, num_classes=5)


@k3im("k3im.ConvMixer_3d")
def k3im_convmixer_3d():
    from k3im.convmixer_3d import ConvMixer3DModel

    return ConvMixer3DModel(
        image_size=16,
        num_frames=8,
        filters=8,
        depth=2,
        kernel_size=3,
        kernel_depth=3,
        patch_size=4,
        patch_depth=2,
        num_classes=5,
    )


@k3im("k3im.EANet")
def k3im_eanet():
    from k3im.eanet import EANet

    return EANet(
        input_shape=(32, 32, 3),
        patch_size=8,
        embedding_dim=16,
        num_transformer_blocks=2,
        mlp_dim=16,
        num_heads=2,
        dim_coefficient=2,
        attention_dropout=0.1,
        projection_dropout=0.1,
        num_classes=5,
    )


@k3im("k3im.FNet")
def k3im_fnet():
    from k3im.fnet import FNetModel

    return FNetModel(**SMALL, embedding_dim=16, num_blocks=2, dropout_rate=0.1)


@k3im("k3im.gMLP")
def k3im_gmlp():
    from k3im.gmlp import gMLPModel

    return gMLPModel(**SMALL, embedding_dim=16, num_blocks=2, dropout_rate=0.1)


@k3im("k3im.MlpMixer")
def k3im_mixer():
    from k3im.mlp_mixer import MlpMixer

    return MlpMixer(num_classes=5, img_size=32, patch_size=8, num_blocks=2, embed_dim=16)


@k3im("k3im.SwinT")
def k3im_swin():
    from k3im.swint import SwinTModel

    return SwinTModel(
        img_size=32,
        patch_size=2,
        embed_dim=16,
        num_heads=2,
        window_size=4,
        num_mlp=32,
        qkv_bias=True,
        dropout_rate=0.1,
        shift_size=2,
        num_classes=5,
    )


@k3im("k3im.TokenLearner")
def k3im_token_learner():
    from k3im.token_learner import ViTokenLearner

    return ViTokenLearner(**TRANSFORMER, token_learner_units=2)


# --- detectors and more ------------------------------------------------------------------------


@wild("kyolo", "kyolo.YOLOv5n")
def yolo_v5():
    import kyolo

    return kyolo.build_yolov5("n", nc=3, input_shape=(64, 64, 3), deploy=False)


@wild("kyolo", "kyolo.YOLOv8n")
def yolo_v8():
    import kyolo

    return kyolo.build_yolov8("n", nc=3, input_shape=(64, 64, 3), deploy=False)


@wild("kyolo", "kyolo.YOLO11n")
def yolo_11():
    import kyolo

    return kyolo.build_yolo11("n", nc=3, input_shape=(64, 64, 3), deploy=True)


@wild("keras_vision", "keras_vision.FastViT_t8")
def fastvit():
    from keras_vision.fastvit import fastvit_t8

    return fastvit_t8(num_classes=5, input_shape=(64, 64, 3))


@wild("keras_vision", "keras_vision.MobileViT_v1_XXS")
def mobilevit_v1():
    from keras_vision import MobileViT_v1 as room

    return room.MobileViT_v1(room.Config_MobileViT_v1_XXS(), num_classes=5, input_shape=(64, 64, 3))


@keras_cv("keras_cv.CSPDarkNet")
def cspdarknet():
    import keras_cv

    return keras_cv.models.CSPDarkNetBackbone(
        stackwise_channels=[16, 24, 32],
        stackwise_depth=[1, 1, 1],
        include_rescaling=True,
        input_shape=(64, 64, 3),
    )


def _yolo_backbone():
    import keras_cv

    return keras_cv.models.YOLOV8Backbone(
        stackwise_channels=[8, 16, 24, 32],
        stackwise_depth=[1, 1, 1, 1],
        include_rescaling=True,
        input_shape=(64, 64, 3),
    )


@keras_cv("keras_cv.YOLOV8Detector")
def keras_cv_detector():
    import keras_cv

    return keras_cv.models.YOLOV8Detector(
        _yolo_backbone(), num_classes=3, bounding_box_format="xywh", fpn_depth=1
    )


@keras_cv("keras_cv.VideoSwin")
def video_swin():
    import keras_cv

    return keras_cv.models.VideoSwinBackbone(
        input_shape=(4, 32, 32, 3),
        embed_dim=16,
        window_size=[2, 4, 4],
        depths=[1, 1],
        num_heads=[2, 2],
    )


@keras_cv("keras_cv.MobileNetV3Backbone")
def keras_cv_mobilenet():
    import keras_cv

    return keras_cv.models.MobileNetV3Backbone(
        stackwise_expansion=[1, 4, 4],
        stackwise_filters=[16, 16, 24],
        stackwise_kernel_size=[3, 3, 5],
        stackwise_stride=[2, 2, 1],
        stackwise_se_ratio=[0.25, None, 0.25],
        stackwise_activation=["relu", "relu", "hard_swish"],
        include_rescaling=True,
        input_shape=(64, 64, 3),
    )
