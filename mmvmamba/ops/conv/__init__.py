"""The depthwise convolution with SiLU."""
