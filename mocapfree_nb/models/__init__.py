"""Denoising networks beside the transformer of the spine."""
