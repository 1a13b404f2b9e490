from __future__ import annotations

import torch
from torch import nn

from rethinkgen.measure.predict import has_batch_norm, predict, recalibrated_batch_norm
from rethinkgen.model.inception import Inception
from rethinkgen.model.mlp import MLP


def test_predictions_are_those_of_each_image_alone_in_float32() -> None:
    torch.manual_seed(0)
    model = MLP(width=8, dropout=0.5, image_shape=(1, 2, 2), num_classes=3)
    model.train()
    inputs, labels = torch.randn(1201, 1, 2, 2), torch.randint(3, (1201,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predictions = predict(model, inputs, labels)
    assert model.training
    assert predictions.losses.dtype == torch.float32
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(image[None]) for image in inputs[:50]])
    expected = -logits.log_softmax(1)[torch.arange(50), labels[:50]]
    torch.testing.assert_close(predictions.losses[:50], expected)
    assert torch.equal(predictions.classes[:50], logits.argmax(1))
    assert len(predictions.classes) == 1201


def test_recalibrated_batch_norm_has_the_statistics_of_the_data_for_a_while() -> None:
    norm = nn.BatchNorm2d(2)
    norm.eval()
    inputs = torch.randn(64, 2, 3, 3) * 3 + 5
    with recalibrated_batch_norm(norm, inputs, batch_size=16):
        torch.testing.assert_close(norm.running_mean, inputs.mean((0, 2, 3)))
        assert norm.training
    assert norm.running_mean is not None
    assert norm.running_mean.tolist() == [0, 0]
    assert (norm.momentum, norm.training, int(norm.num_batches_tracked)) == (0.1, False, 0)  # type: ignore[arg-type]
    assert has_batch_norm(Inception(image_shape=(1, 8, 8), num_classes=2))
    assert not has_batch_norm(MLP(image_shape=(1, 8, 8), num_classes=2))
