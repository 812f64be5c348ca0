"""Stands in for torchvision, whose wheel needs CUDA's torch; see packages.txt."""
