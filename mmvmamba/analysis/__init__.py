"""Analysis of backbones: effective receptive fields, scan attention and statistics of the learned scans."""
