"""Language models of keras-hub, tiny: backbones, and some of their tasks.

The package leaves the length of a text open. What layers compute with an open length cannot be
written down as a graph, so most models are given a length here, as for a deployment; the last ones
("_open") are as they come.
"""

import numpy as np

from wild_models import text, tokens, wild, zeros
from wild_models.hub_vision import hub, models

SMALL = {
    "vocabulary_size": 20,
    "num_layers": 2,
    "num_heads": 4,
    "hidden_dim": 16,
    "intermediate_dim": 64,
}
KEYS = {"num_query_heads": 4, "num_key_value_heads": 2}
LLAMA = {**{k: v for k, v in SMALL.items() if k != "num_heads"}, **KEYS}
SEGMENTS = {"segment_ids": zeros(8)}
PLACES = {"max_sequence_length": 16}
BACKBONES = {  # name: arguments, further inputs
    "BertBackbone": ({**SMALL, **PLACES}, SEGMENTS),
    "DistilBertBackbone": ({**SMALL, **PLACES}, {}),
    "RobertaBackbone": ({**SMALL, **PLACES}, {}),
    "XLMRobertaBackbone": ({**SMALL, **PLACES}, {}),
    "DebertaV3Backbone": ({**SMALL, **PLACES, "bucket_size": 4}, {}),
    "AlbertBackbone": ({**SMALL, **PLACES, "embedding_dim": 8}, SEGMENTS),
    "GPT2Backbone": ({**SMALL, **PLACES}, {}),
    "OPTBackbone": ({**SMALL, **PLACES}, {}),
    "BloomBackbone": (SMALL, {}),
    "GPTNeoXBackbone": ({**SMALL, **PLACES, "rotary_percentage": 0.5}, {}),
    "LlamaBackbone": (LLAMA, {}),
    "Llama3Backbone": (LLAMA, {}),
    "MistralBackbone": (LLAMA, {}),
    "Qwen2Backbone": (LLAMA, {}),
    "Qwen3Backbone": ({**LLAMA, "head_dim": 8}, {}),
    "Phi3Backbone": (LLAMA, {}),
    "GemmaBackbone": ({**LLAMA, "head_dim": 8}, {}),
    "MixtralBackbone": ({**LLAMA, "num_experts": 3}, {}),
    "ESMBackbone": (SMALL, {}),
    "RoformerV2Backbone": ({**SMALL, "head_size": 4}, SEGMENTS),
}


def _backbone(name, arguments, more):
    def build():
        names = text(8, **more)
        model = getattr(models(), name)(**arguments)
        return fixed(model, {key: names[key] for key in model.input})

    return build


def fixed(model, batch):
    """The model on inputs of the sizes of the batch, and the batch."""
    import keras

    inputs = {n: keras.Input(x.shape[1:], dtype=str(x.dtype), name=n) for n, x in batch.items()}
    return keras.Model(inputs, model.call(inputs), name=model.name), batch


@hub("LlamaBackbone_open")
def llama_open():
    return models().LlamaBackbone(**LLAMA), text()


@hub("GPT2Backbone_open")
def gpt2_open():
    return models().GPT2Backbone(**SMALL, **PLACES), text()


for _name, (_arguments, _more) in BACKBONES.items():
    wild("keras_hub", _name)(_backbone(_name, _arguments, _more))


@hub("FalconBackbone")
def falcon_backbone():
    model = models().FalconBackbone(
        vocabulary_size=20,
        num_layers=2,
        num_attention_heads=4,
        hidden_dim=16,
        intermediate_dim=64,
    )
    return fixed(model, text())


@hub("ElectraBackbone")
def electra_backbone():
    sizes = {k: v for k, v in SMALL.items() if k != "vocabulary_size"}
    model = models().ElectraBackbone(vocab_size=20, embedding_dim=8, **sizes, **PLACES)
    return fixed(model, text(**SEGMENTS))


@hub("FNetBackbone")
def f_net_backbone():
    sizes = {k: v for k, v in SMALL.items() if k != "num_heads"}
    model = models().FNetBackbone(**sizes, **PLACES)
    return fixed(model, {"token_ids": tokens(8), "segment_ids": zeros(8)})


def _both_sides():
    return {f"{side}_{name}": x for side in ("encoder", "decoder") for name, x in text().items()}


@hub("T5Backbone")
def t5_backbone():
    return fixed(models().T5Backbone(**SMALL), _both_sides())


@hub("BartBackbone")
def bart_backbone():
    return fixed(models().BartBackbone(**SMALL, **PLACES), _both_sides())


@hub("WhisperBackbone")
def whisper_backbone():
    model = models().WhisperBackbone(
        **SMALL, num_mels=8, max_encoder_sequence_length=16, max_decoder_sequence_length=8
    )
    features = np.random.default_rng(1).normal(size=(3, 16, 8)).astype("float32")
    decoder = {f"decoder_{name}": x for name, x in text().items()}
    return fixed(model, {"encoder_features": features, **decoder})


@hub("BertTextClassifier")
def bert_text_classifier():
    backbone = models().BertBackbone(**SMALL, **PLACES)
    return models().BertTextClassifier(backbone, num_classes=3), text(**SEGMENTS)


@hub("GPT2CausalLM")
def gpt2_causal_lm():
    return models().GPT2CausalLM(models().GPT2Backbone(**SMALL, **PLACES)), text()


@hub("LlamaCausalLM")
def llama_causal_lm():
    return models().LlamaCausalLM(models().LlamaBackbone(**LLAMA)), text()


@hub("DebertaV3MaskedLM")
def deberta_v3_masked_lm():
    backbone = models().DebertaV3Backbone(**SMALL, **PLACES, bucket_size=4)
    return models().DebertaV3MaskedLM(backbone), text(mask_positions=tokens(2, below=6))


@hub("CLIPBackbone")
def clip_backbone():
    vision = models().CLIPVisionEncoder(
        patch_size=8,
        hidden_dim=16,
        num_layers=2,
        num_heads=4,
        intermediate_dim=64,
        image_shape=(32, 32, 3),
    )
    words = models().CLIPTextEncoder(
        vocabulary_size=20,
        embedding_dim=16,
        hidden_dim=16,
        num_layers=2,
        num_heads=4,
        intermediate_dim=64,
        max_sequence_length=8,
    )
    return models().CLIPBackbone(vision, words, projection_dim=16), _images_and_words()


@hub("SigLIPBackbone")
def sig_lip_backbone():
    vision = models().SigLIPVisionEncoder(
        patch_size=8,
        hidden_dim=16,
        num_layers=2,
        num_heads=4,
        intermediate_dim=64,
        image_shape=(32, 32, 3),
    )
    words = models().SigLIPTextEncoder(
        vocabulary_size=20,
        embedding_dim=16,
        hidden_dim=16,
        num_layers=2,
        num_heads=4,
        intermediate_dim=64,
        max_sequence_length=8,
    )
    return models().SigLIPBackbone(vision, words), _images_and_words()


def _images_and_words():
    images = np.random.default_rng(1).normal(size=(3, 32, 32, 3)).astype("float32")
    return {"images": images, "token_ids": tokens(8)}
