"""The terms of the loss, and what watches them, in a sentence each."""

_SENTENCES = {
    "supervised_loss": "How far the student's answers are from the labels.",
    "output_loss": "How far its answers are from the teacher's, softened by a temperature.",
    "attention_loss": "How far the places that its feature maps attend to are from the teacher's.",
    "feature_loss": "How far its feature maps are from the teacher's, channel by channel.",
    "adversarial_loss": "How surely the discriminator tells its answers from the teacher's. It may "
    "rise while the student gets better: its opponent learns too.",
    "discriminator_loss": "How unsure the discriminator is who of the two answered.",
    "discriminator_accuracy": "Share of the answers whose author the discriminator knows: at 0.5 "
    "it guesses, at 1 it is never fooled.",
    "total_loss": "The sum that is minimized, every term with its weight.",
    "loss": "How far the student's answers are from the labels, its regularizers included.",
}


def rows(history):
    """(name, first value, last value, sentence) of every term that the training logged.

    Args:
        history: a dictionary of logs for each epoch.

    >>> rows([{"loss": 1.5, "val_loss": 2.0}, {"loss": 0.5}])[0][:3]
    ('loss', '1.5', '0.5')
    """
    names = dict.fromkeys(name for logs in history for name in logs if not name.startswith("val_"))
    found = []
    for name in names:
        sentence = _sentence(name)
        values = [logs[name] for logs in history if name in logs]
        if sentence:
            found.append((name, f"{values[0]:.4g}", f"{values[-1]:.4g}", sentence))
    return found


def _sentence(name):
    """What a logged name means; "" for metrics. Several of a kind have a prefix or a number."""
    for known, sentence in _SENTENCES.items():
        if name == known or (known != "loss" and known in name):
            return sentence
    return "A term of the loss of its own." if name.endswith("loss") else ""
