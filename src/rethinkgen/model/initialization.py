"""Initialisations that more than one architecture uses."""

from __future__ import annotations

from typing import Literal

from torch import nn


def glorot_uniform(network: nn.Module) -> nn.Module:
    """Draw all weights Glorot uniform and set all biases to zero, in place.

    Glorot and Bengio 2010, equation 16. The default of TensorFlow's contrib/slim layers of 2016 as we remember it;
    Zhang et al. 2017 state no initialisation. It goes with their rates: He's, twice as large in variance, makes
    Inception without BatchNorm diverge within 6 steps at 0.1 (CIFAR-10 as JPEG).
    """
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


def he_normal(network: nn.Module, mode: Literal["fan_in", "fan_out"] = "fan_in") -> nn.Module:
    """Draw all weights from He's normal distribution for ReLUs, biases zero, in place.

    He et al. 2015, equations 10 and 14: convolutions by the fan-in or the fan-out, dense layers by the fan-in. By its
    fan-out, the few classes, the last layer would begin with logits of a standard deviation of 10 on 512 features.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            by = mode if isinstance(module, nn.Conv2d) else "fan_in"
            nn.init.kaiming_normal_(module.weight, mode=by, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


def zeros(network: nn.Module) -> nn.Module:
    """Set all weights and biases to zero, in place: gradient descent then stays in the span of the data."""
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    return network
