"""Classifiers, segmenters, detectors of keras-hub, with a preprocessor where a task takes one."""

import numpy as np

from wild_models import BATCH_SIZE, floats, hub_dense, hub_vision, padded, tokens, uniform, wild
from wild_models.hub_vision import hub, models

CLASSIFIERS = {
    "ResNetImageClassifier": hub_vision.res_net_backbone,
    "CSPNetImageClassifier": hub_vision.csp_net_backbone,
    "DenseNetImageClassifier": hub_vision.dense_net_backbone,
    "VGGImageClassifier": hub_vision.vgg_backbone,
    "XceptionImageClassifier": hub_vision.xception_backbone,
    "EfficientNetImageClassifier": hub_vision.efficient_net_backbone_v2,
    "MobileNetImageClassifier": hub_vision.mobile_net_backbone,
    "MobileNetV5ImageClassifier": hub_vision.mobile_net_v5_backbone,
    "HGNetV2ImageClassifier": hub_vision.hg_net_v2_backbone,
    "MiTImageClassifier": hub_vision.mi_t_backbone,
    "ViTImageClassifier": hub_vision.vi_t_backbone,
    "DeiTImageClassifier": hub_vision.dei_t_backbone,
    "SwinTransformerImageClassifier": hub_vision.swin_transformer_backbone,
}
MORE = {
    "VGGImageClassifier": {"pooling": "flatten", "pooling_hidden_dim": 16},
    "HGNetV2ImageClassifier": {"head_filters": 32, "preprocessor": None},
}


def _classifier(name, backbone):
    def build():
        task = getattr(models(), name)
        return task(backbone(), num_classes=5, **MORE.get(name, {}))

    return build


for _name, _backbone in CLASSIFIERS.items():
    wild("keras_hub", _name)(_classifier(_name, _backbone))


@hub("ResNetImageClassifier_preprocessed")
def res_net_image_classifier_preprocessed():
    import keras_hub

    converter = keras_hub.layers.ResNetImageConverter(image_size=(64, 64), scale=1 / 255)
    preprocessor = models().ResNetImageClassifierPreprocessor(converter)
    return models().ResNetImageClassifier(
        hub_vision.resnet(), num_classes=5, preprocessor=preprocessor
    )


@hub("DeepLabV3ImageSegmenter")
def deep_lab_v3_image_segmenter():
    return models().DeepLabV3ImageSegmenter(hub_dense.deeplab(), num_classes=3)


@hub("SegFormerImageSegmenter")
def seg_former_image_segmenter():
    return models().SegFormerImageSegmenter(hub_dense.seg_former_backbone(), num_classes=3)


@hub("BASNetImageSegmenter")
def bas_net_image_segmenter():
    return models().BASNetImageSegmenter(hub_dense.basnet())


@hub("DepthAnythingDepthEstimator")
def depth_anything_depth_estimator():
    return models().DepthAnythingDepthEstimator(
        hub_dense.depth_anything(), depth_estimation_type="relative"
    )


@hub("RetinaNetObjectDetector")
def retina_net_object_detector():
    return detector()


@hub("RetinaNetObjectDetector_preprocessed")
def retina_net_object_detector_preprocessed():
    import keras_hub

    converter = keras_hub.layers.RetinaNetImageConverter(image_size=(64, 64), scale=1 / 255)
    return detector(preprocessor=models().RetinaNetObjectDetectorPreprocessor(converter))


def detector(**more):
    import keras_hub

    anchors = keras_hub.layers.AnchorGenerator(
        bounding_box_format="yxyx",
        min_level=3,
        max_level=5,
        num_scales=2,
        aspect_ratios=[0.5, 1.0, 2.0],
        anchor_size=4.0,
    )
    return models().RetinaNetObjectDetector(
        hub_dense.retinanet(),
        num_classes=4,
        bounding_box_format="yxyx",
        anchor_generator=anchors,
        pre_logits_num_conv_layers=2,
        use_prediction_head_norm=True,
        **more,
    )


def dfine():
    return models().DFineBackbone(
        backbone=hub_vision.hgnet(out=["stage2", "stage3"]),
        decoder_in_channels=[16, 16],
        encoder_hidden_dim=16,
        num_denoising=0,
        num_labels=4,
        hidden_dim=16,
        learn_initial_query=False,
        num_queries=10,
        anchor_image_size=(64, 64),
        feat_strides=[8, 16],
        num_feature_levels=2,
        encoder_in_channels=[48, 64],
        encode_proj_layers=[1],
        num_attention_heads=2,
        encoder_ffn_dim=32,
        num_encoder_layers=1,
        hidden_expansion=0.5,
        depth_multiplier=0.5,
        eval_idx=-1,
        num_decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=32,
        decoder_n_points=[2, 2],
        lqe_hidden_dim=16,
        num_lqe_layers=2,
        out_features=["stage2", "stage3"],
        image_shape=(64, 64, 3),
        seed=0,
    )


@hub("DFineBackbone")
def d_fine_backbone():
    return dfine()


@hub("DFineObjectDetector")
def d_fine_object_detector():
    return models().DFineObjectDetector(dfine(), num_classes=4), {
        "images": uniform(64, 64, 3),
        "image_shape": np.full((BATCH_SIZE, 2), 64, "int32"),
    }


@hub("SAMImageSegmenter")
def sam_image_segmenter():
    import keras_hub

    prompts = keras_hub.layers.SAMPromptEncoder(
        hidden_size=8,
        image_embedding_size=(4, 4),
        input_image_size=(32, 32),
        mask_in_channels=16,
    )
    masks = keras_hub.layers.SAMMaskDecoder(
        num_layers=1,
        hidden_size=8,
        intermediate_dim=16,
        num_heads=2,
        embedding_dim=8,
        num_multimask_outputs=3,
        iou_head_depth=2,
        iou_head_hidden_dim=8,
    )
    backbone = models().SAMBackbone(
        image_encoder=hub_dense.vitdet(), prompt_encoder=prompts, mask_decoder=masks
    )
    return models().SAMImageSegmenter(backbone), {
        "images": uniform(32, 32, 3),
        "points": 32 * uniform(2, 2),
        "labels": np.ones((BATCH_SIZE, 2), "float32"),
        "boxes": 32 * uniform(1, 2, 2),
        "masks": floats(1, 16, 16, 1),
    }


@hub("PARSeqBackbone")
def par_seq_backbone():
    model = models().PARSeqBackbone(
        image_encoder=hub_vision.vit(use_class_token=False),
        vocabulary_size=20,
        max_label_length=7,
        decoder_hidden_dim=24,
        num_decoder_layers=1,
        num_decoder_heads=2,
        decoder_mlp_dim=32,
    )
    return model, {
        "images": uniform(32, 32, 3),
        "token_ids": tokens(8, below=18),
        "padding_mask": padded(8),
    }


@hub("VideoPrismBackbone")
def video_prism_backbone():
    return models().VideoPrismBackbone(
        num_frames=4,
        patch_size=8,
        hidden_dim=16,
        intermediate_dim=64,
        num_heads=4,
        num_spatial_layers=1,
        num_temporal_layers=1,
        num_auxiliary_layers=0,
        image_shape=(32, 32, 3),
    )
