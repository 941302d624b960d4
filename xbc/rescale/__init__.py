"""Function-preserving transforms of a model (arXiv 1910.13850): one weight scale for all layers, one-signed weights.

Modules: ``scaling`` (positive factors between layers), ``unipolar`` (non-negative matrices with a reference
column), ``names`` (new ones for what they add), ``proof`` (both graphs side by side in onnxruntime).
"""
