"""Models of packages for segmentation, medicine, weather, series, tables."""

import functools

from wild_models import called, floats, tokens, wild

unets = functools.partial(wild, "keras_unet_collection")
climate = functools.partial(wild, "keras_climate")
factory = functools.partial(wild, "kerasfactory")
medicai = functools.partial(wild, "medicai")
IMAGE = (32, 32, 3)
LOGITS = {"output_activation": None}


@unets("unets.unet_2d")
def unet_2d():
    from keras_unet_collection import models

    return models.unet_2d(IMAGE, [8, 16, 24], 3, batch_norm=True, **LOGITS)


@unets("unets.att_unet_2d")
def att_unet_2d():
    from keras_unet_collection import models

    return models.att_unet_2d(IMAGE, [8, 16, 24], 3, batch_norm=True, **LOGITS)


@unets("unets.unet_plus_2d")
def unet_plus_2d():
    from keras_unet_collection import models

    return models.unet_plus_2d(IMAGE, [8, 16, 24], 3, pool="max", unpool=False, **LOGITS)


@unets("unets.unet_3plus_2d")
def unet_3plus_2d():
    from keras_unet_collection import models

    return models.unet_3plus_2d(IMAGE, 3, [8, 16, 24], batch_norm=True, **LOGITS)


@unets("unets.r2_unet_2d")
def r2_unet_2d():
    from keras_unet_collection import models

    return models.r2_unet_2d(IMAGE, [8, 16, 24], 3, batch_norm=True, **LOGITS)


@unets("unets.u2net_2d")
def u2net_2d():
    from keras_unet_collection import models

    return models.u2net_2d((64, 64, 3), 3, [8, 16, 24], activation="GELU", **LOGITS)


# --- weather and series ------------------------------------------------------------------------


@climate("climate.ConvLSTMNowcaster")
def nowcaster():
    from keras_climate.weather import ConvLSTMNowcaster

    return ConvLSTMNowcaster(input_shape=(4, 16, 16, 1), pred_steps=4, filters=(8, 12))


@climate("climate.MetNet")
def metnet():
    from keras_climate.weather import MetNet

    model = MetNet(
        input_shape=(4, 32, 32, 1),
        lead_times=4,
        base_filters=8,
        attn_dim=16,
        attn_layers=1,
        num_heads=2,
    )
    return model, [floats(4, 32, 32, 1), tokens(below=4)]


@climate("climate.Autoformer")
def autoformer():
    from keras_climate.forecasting import Autoformer

    return Autoformer(seq_len=16, label_len=8, pred_len=8, d_model=16, num_heads=4, d_ff=64)


@climate("climate.Informer")
def informer():
    from keras_climate.forecasting import Informer

    return Informer(seq_len=16, label_len=8, pred_len=8, d_model=16, num_heads=4, d_ff=64)


@climate("climate.PatchTST")
def patchtst():
    from keras_climate.forecasting import PatchTST

    return PatchTST(
        seq_len=32,
        pred_len=8,
        num_channels=2,
        patch_len=8,
        stride=4,
        d_model=16,
        depth=2,
        num_heads=4,
    )


@climate("climate.TimesNet")
def timesnet():
    from keras_climate.forecasting import TimesNet

    return TimesNet(
        seq_len=16, pred_len=8, num_channels=2, d_model=8, d_ff=16, num_layers=1, top_k=2
    )


@climate("climate.NBeats")
def nbeats():
    from keras_climate.forecasting import NBeats

    return NBeats(seq_len=16, pred_len=8, num_blocks_per_stack=2, hidden_dim=24)


@climate("climate.TemporalFusionTransformer")
def fusion_transformer():
    from keras_climate.forecasting import TemporalFusionTransformer

    return TemporalFusionTransformer(
        encoder_len=12,
        decoder_len=6,
        num_past_vars=3,
        num_future_vars=2,
        num_static_vars=2,
        hidden_dim=16,
    )


@climate("climate.DeepLabV3Plus")
def climate_deeplab():
    from keras_climate.remote_sensing import DeepLabV3Plus

    return DeepLabV3Plus(
        input_shape=(64, 64, 3),
        num_classes=3,
        backbone_layers=(1, 1, 1, 1),
        aspp_filters=16,
        decoder_filters=8,
    )


@climate("climate.UNet")
def climate_unet():
    from keras_climate.remote_sensing import UNet

    return UNet(input_shape=IMAGE, num_classes=3, base_filters=8, depth=2)


@climate("climate.SatCLIP")
def satclip():
    from keras_climate.remote_sensing import SatCLIPLocationEncoder

    return SatCLIPLocationEncoder(legendre_polys=4, dim_hidden=24, embed_dim=8)


@factory("factory.TSMixer")
def tsmixer():
    from kerasfactory.models import TSMixer

    return called(TSMixer(seq_len=16, pred_len=8, n_features=4, n_blocks=2), floats(16, 4))


@factory("factory.Autoencoder")
def factory_autoencoder():
    from kerasfactory.models import Autoencoder

    return called(Autoencoder(input_dim=12, encoding_dim=16, intermediate_dim=8), floats(12))


@wild("tcn", "tcn.TCN")
def tcn():
    import keras
    from tcn import TCN

    image = keras.Input((24, 4))
    x = TCN(8, dilations=(1, 2, 4), use_batch_norm=True, return_sequences=True)(image)
    x = TCN(12, dilations=(1, 2), use_layer_norm=True)(x)
    return keras.Model(image, keras.layers.Dense(3)(x))


# --- transformers, medicine --------------------------------------------------------------------


@wild("vit_keras", "vit_keras.ViT")
def vit_keras():
    from vit_keras import vit

    return vit.build_model(
        image_size=32,
        patch_size=8,
        num_layers=2,
        hidden_size=16,
        num_heads=4,
        name="tiny",
        mlp_dim=64,
        classes=5,
        representation_size=16,
    )


@wild("tfswin", "tfswin.SwinTransformerV2")
def tfswin():
    from tfswin.model import SwinTransformer

    return SwinTransformer(
        pretrain_size=64,
        window_size=4,
        embed_dim=16,
        depths=(1, 1),
        num_heads=(2, 2),
        swin_v2=True,
        input_shape=(64, 64, 3),
        classes=5,
        classifier_activation=None,
    )


@wild("segmentation_models_3D", "segmentation_models_3D.Unet")
def unet_3d():
    import segmentation_models_3D as package

    return package.Unet(
        "resnet18",
        input_shape=(32, 32, 32, 1),
        encoder_weights=None,
        decoder_filters=(16, 12, 8, 8, 8),
        activation=None,
    )


@medicai("medicai.UNet_3d")
def medicai_unet():
    from medicai.models import UNet

    return UNet(encoder=_volume_encoder(), decoder_filters=(24, 16, 12, 8, 8), **_LOGITS)


@medicai("medicai.AttentionUNet_3d")
def medicai_attention_unet():
    from medicai.models import AttentionUNet

    return AttentionUNet(
        encoder=_volume_encoder(),
        decoder_filters=(24, 16, 12, 8, 8),
        name="attention_unet",
        **_LOGITS,
    )


_LOGITS = {"num_classes": 2, "classifier_activation": None}


def _volume_encoder():
    from medicai.models import ResNetBackbone

    return ResNetBackbone(
        input_shape=(32, 32, 32, 1),
        num_blocks=[1, 1, 1, 1],
        num_filters=[64, 12, 16, 24],  # it wants 64 as the first
        block_type="basic_block",
        se_block=True,
    )


@medicai("medicai.SwinUNETR")
def swin_unetr():
    from medicai.models import SwinUNETR

    return SwinUNETR(
        encoder_name="swin_tiny", input_shape=(64, 64, 3), feature_size=12, window_size=4, **_LOGITS
    )


@medicai("medicai.UNETR")
def unetr():
    from medicai.models import UNETR, ViTBackbone

    encoder = ViTBackbone(
        input_shape=(32, 32, 1),
        patch_size=16,
        num_layers=4,
        num_heads=2,
        hidden_dim=16,
        mlp_dim=32,
        use_class_token=False,
    )
    return UNETR(encoder=encoder, feature_size=8, **_LOGITS)
