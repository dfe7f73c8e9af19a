"""Kernels compiled on this machine, for what torch computes slower than the processor could."""

from asap_eval.kernels.native import attention_kernel, available, packed_attention, takes

__all__ = ["attention_kernel", "available", "packed_attention", "takes"]
